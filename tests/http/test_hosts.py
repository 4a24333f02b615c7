from __future__ import annotations

import pytest

from gwproxy.errors import BadRequest
from gwproxy.http.hosts import Host, parse_host


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("example.com", Host("example.com", None)),
        ("EXAMPLE.Com.", Host("example.com", None)),
        ("example.com:8080", Host("example.com", 8080)),
        ("example.com.:80", Host("example.com", 80)),
        ("example.com:", Host("example.com", None)),
        ("localhost", Host("localhost", None)),
        ("my_service:8000", Host("my_service", 8000)),
        ("xn--bcher-kva.example", Host("xn--bcher-kva.example", None)),
        ("10.0.0.5:65535", Host("10.0.0.5", 65535)),
        ("[::1]", Host("[::1]", None)),
        ("[2001:DB8:0:0::1]:443", Host("[2001:db8::1]", 443)),
    ],
)
def test_N19_a_host_has_one_spelling(value: str, expected: Host) -> None:
    assert parse_host(value) == expected


_NO_NAMES = r"a..b .a a.. . -a a- u@a a,a a# a?b a\b a%41 *.a.com http://a"
_NO_PORTS = "a:b a:0 a:65536 a:123456 a:-1 a:٣ [::1]:x"
_NO_ADDRESSES = "[ [] [::1 ::1 [1.2.3.4] [::1%eth0] [::g] [:::]"


@pytest.mark.parametrize(
    "value",
    [
        *_NO_NAMES.split(),
        *_NO_PORTS.split(),
        *_NO_ADDRESSES.split(),
        *("", " ", "a/b@c d", "a, b", "a b", " a", "a\n", "a\r\nX: y", "é.com", "\u212a"),
        "a" * 64,
        ".".join(["a" * 60] * 5),
    ],
)
def test_N18_what_is_no_host_is_refused(value: str) -> None:
    with pytest.raises(BadRequest):
        parse_host(value)
