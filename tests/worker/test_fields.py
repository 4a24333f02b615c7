"""The rules on fields, without a socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwproxy.errors import BadRequest, HttpError
from gwproxy.worker.fields import cgi_name, check, fold, wants_close


@pytest.mark.parametrize(
    ("name", "key"),
    [("X-A", "HTTP_X_A"), ("content-type", "CONTENT_TYPE"), ("Content-Length", "CONTENT_LENGTH"), ("host", "HTTP_HOST")],
)
def test_cgi_name(name, key):
    assert cgi_name(name) == key


def test_fold_joins_by_comma_and_cookies_by_semicolon():
    pairs = [("Accept", "a"), ("cookie", "x=1"), ("ACCEPT", "b"), ("Cookie", "y=2"), ("Accept", "")]
    assert fold(pairs) == {"HTTP_ACCEPT": "a,b,", "HTTP_COOKIE": "x=1; y=2"}


@pytest.mark.parametrize("name", ["Authorization", "Origin", "Host", "Content-Length", "Content-Type"])
def test_H11_C09_N18_fields_that_stand_once(name):
    with pytest.raises(BadRequest, match=f"(?i){name} twice"):
        fold([(name, "secret"), (name.lower(), "secret")])


@given(st.lists(st.tuples(st.sampled_from(["X-A", "x-a", "X-B"]), st.text("abc", max_size=3)), max_size=8))
def test_fold_loses_no_value(pairs):
    folded = fold(pairs)
    for key in ("HTTP_X_A", "HTTP_X_B"):
        values = [value for name, value in pairs if cgi_name(name) == key]
        assert folded.get(key) == (",".join(values) if values else None)


def test_N18_host_is_required_of_http_1_1_only():
    check({}, http11=False)
    with pytest.raises(BadRequest, match="no Host"):
        check({}, http11=True)


@pytest.mark.parametrize("host", ["", "a b", "a,b", "a@b", "a/b", "[a]", "[::1]x", "a:x", "a" * 256, "a\n"])
def test_N18_no_host(host):
    with pytest.raises(BadRequest):
        check({"HTTP_HOST": host}, http11=False)


@pytest.mark.parametrize("host", ["a", "a.b.", "A_b-c.d:65535", "[fe80::1]", "[::ffff:1.2.3.4]:1", "1.2.3.4"])
def test_N18_host(host):
    check({"HTTP_HOST": host}, http11=True)


def test_P05_only_chunked_is_a_coding():
    check({"HTTP_HOST": "a", "HTTP_TRANSFER_ENCODING": "Chunked"}, http11=True)
    with pytest.raises(HttpError) as caught:
        check({"HTTP_HOST": "a", "HTTP_TRANSFER_ENCODING": "identity,chunked"}, http11=True)
    assert caught.value.status == 501


@pytest.mark.parametrize(
    ("options", "http11", "close"),
    [
        (None, True, False),
        (None, False, True),
        ("close", True, True),
        ("Close , x", True, True),
        ("x,CLOSE", False, True),
        ("keep-alive", False, False),
        ("keep-alive, close", False, True),
        ("closed", True, False),
        ("upgrade", False, True),
    ],
)
def test_P15_wants_close(options, http11, close):
    folded = {} if options is None else {"HTTP_CONNECTION": options}
    assert wants_close(folded, http11=http11) is close
