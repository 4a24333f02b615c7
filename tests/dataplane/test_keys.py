"""What requests are told apart by: the same as plugins see, however odd the header is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwproxy import Headers, Request
from gwproxy.dataplane import keys

ODD = st.text(alphabet=st.sampled_from('sid=;" \t\\,x\xe9\xc3\xa9'), max_size=30)
PAIRS = st.lists(st.tuples(st.sampled_from(["sid", "sidx", "xsid", "SID", "s"]), ODD), max_size=4)
SENT = st.one_of(ODD, PAIRS.map(lambda pairs: "; ".join(f"{name}={value}" for name, value in pairs)))


def request(*fields: tuple[str, str]) -> Request:
    return Request("GET", "/", headers=Headers(fields))


@given(SENT)
def test_one_cookie_is_found_as_among_all(sent: str) -> None:
    assert keys.cookie("sid")(request(("Cookie", sent))) == request(("Cookie", sent)).cookies.get("sid")


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        ("sid=1", "1"),
        ("a=2; sid=1; sid=3", "1"),
        ("xsid=2;sid = 1 ;b", "1"),
        ('a="; sid=2"; sid="1"', "1"),
        ("sid; sid=1", ""),
        ("SID=1", None),
        ("a=sid", None),
        ("sid=\xff", "\ufffd"),
    ],
)
def test_a_cookie(sent: str, value: str | None) -> None:
    assert keys.cookie("sid")(request(("Cookie", sent))) == value


@pytest.mark.parametrize("read_before", [False, True])
def test_a_header_is_the_first_of_its_name_in_any_case(read_before: bool) -> None:
    asked = request(("X-Other", "0"), ("x-KEY", "1"), ("X-Key", "2"))
    if read_before:
        assert asked.headers["X-Other"] == "0"
    assert keys.header("X-Key")(asked) == "1"
    assert keys.header("X-None")(asked) is None
