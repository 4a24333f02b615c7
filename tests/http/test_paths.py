"""One canonical path (contract section 2)."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwproxy.errors import BadRequest
from gwproxy.http.paths import Target, canonical, split_target, strip


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("/", Target("/", "")),
        ("/a/b?x=1&y=%20?z", Target("/a/b", "x=1&y=%20?z")),
        ("/a?", Target("/a", "")),
        ("/a?%zz\\", Target("/a", "%zz\\")),
        ("//h/a", Target("//h/a", "")),
        ("*", Target("*", "")),
        ("http://Example.com:81/a%2fb?q", Target("/a%2fb", "q", "Example.com:81")),
        ("HTTPS://h", Target("/", "", "h")),
        ("http://h?q=1", Target("/", "q=1", "h")),
        ("http://h/a?b=http://c/d", Target("/a", "b=http://c/d", "h")),
    ],
)
def test_splits_a_target_without_touching_its_bytes(raw: str, expected: Target) -> None:
    assert split_target(raw) == expected


_OTHER_FORMS = "a h:443 http:///a http://u:p@h/ http:/h/a ftp://h/ ** *?a ?a"
_FRAGMENTS = "/a#b /?a#b http://h/#"


@pytest.mark.parametrize(
    "raw",
    [
        *_OTHER_FORMS.split(),
        *_FRAGMENTS.split(),
        *("", "/a b", "/a\t", "/a\x00", "/a\x7f", "/a\x80", "/\xe9", "/?\xff", "/a\r\nX: y"),
    ],
)
def test_refuses_a_target_that_is_none(raw: str) -> None:
    with pytest.raises(BadRequest):
        split_target(raw)


@pytest.mark.parametrize(
    "path", ["/", "/a", "/a/", "/a.b/c..d/...", "/a;v=1/b", "/~u/-_.!$&'()*+,;=:@", '/a[0]|{b}^`"<>', "/.well-known/x"]
)
def test_leaves_a_canonical_path_alone(path: str) -> None:
    assert canonical(path) == path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/%61%5A%7e%2D%5f%30", "/aZ~-_0"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a%2fb%3b%3F%23%25", "/a%2fb%3b%3F%23%25"),
        ("/%2541", "/%2541"),
        ("/%252e%252E/a", "/%252e%252E/a"),
        ("//a///b//", "/a/b/"),
        ("/a%2e%2Eb", "/a..b"),
        ("/%E2%82%ac", "/%E2%82%ac"),
    ],
)
def test_writes_what_has_a_plain_spelling_in_it(path: str, expected: str) -> None:
    assert canonical(path) == expected


@pytest.mark.parametrize("path", ["/%c0%ae%c0%ae/a", "/%ff", "/%80"])
def test_N12_bytes_that_are_no_utf8_are_kept_as_sent(path: str) -> None:
    assert canonical(path) == path


@pytest.mark.parametrize("path", ["/a%0d%0aX", "/%00", "/%1F", "/%7f", "/a\r\n", "/\x00", "/\x1f", "/\x7f", "/a b"])
def test_N11_control_characters_are_refused_raw_and_escaped(path: str) -> None:
    with pytest.raises(BadRequest):
        canonical(path)


def test_N14_case_is_kept() -> None:
    assert canonical("/ADMIN") == "/ADMIN"


def test_N15_parameters_are_kept() -> None:
    assert canonical("/a;b=1;c/%64;") == "/a;b=1;c/d;"


_PLAIN_DOTS = "/. /.. /a/. /a/.. /a/../b /a/./b //.. /a//./b"
_ESCAPED_DOTS = "/%2e /%2E%2e/b /.%2e /%2e./ /%2E"
_DOTS_FOR_SOME = "/..;/a /a/..;x=1/b /.; /..%3b/a /..%2fa /a%2F.. /a%2f%2e%2E%2Fb /a/.%2F"


@pytest.mark.parametrize("path", f"{_PLAIN_DOTS} {_ESCAPED_DOTS} {_DOTS_FOR_SOME}".split())
def test_refuses_dot_segments_in_any_encoding(path: str) -> None:
    with pytest.raises(BadRequest):
        canonical(path)


@pytest.mark.parametrize(
    "path", ["/a\\b", "/a%5Cb", "/%5c", "/%", "/%4", "/%4g", "/a%", "/%%41", "/%2%35", "/\xe9", "/a?b", "/a#b", "", "a", "*"]
)
def test_refuses_what_upstreams_read_differently(path: str) -> None:
    with pytest.raises(BadRequest):
        canonical(path)


_PIECES = st.sampled_from(["/", "//", ".", "..", ";", "%2e", "%2F", "%2f", "%25", "%41", "%5C", "%0a", "%", "a", "B7", "é", "\\", " ", "~"])
_ANYTHING = st.builds("/".__add__, st.one_of(st.lists(_PIECES).map("".join), st.text(alphabet=string.printable + "\x80\xff")))


@given(_ANYTHING)
def test_the_canonical_form_is_its_own(path: str) -> None:
    try:
        once = canonical(path)
    except BadRequest:
        return
    assert canonical(once) == once
    assert "//" not in once
    assert not {".", ".."} & {segment.partition(";")[0] for segment in once.replace("%2f", "/").replace("%2F", "/").split("/")}


@given(st.text(alphabet=string.ascii_letters + string.digits + "-_~", min_size=1))
def test_every_spelling_of_plain_text_becomes_that_text(text: str) -> None:
    assert canonical("/" + "".join(f"%{ord(c):02x}" for c in text)) == "/" + text


@pytest.mark.parametrize(
    ("path", "matched", "expected"),
    [
        ("/api/users/7", "/api/users", "/7"),
        ("/api/users", "/api/users", "/"),
        ("/api/users/", "/api/users", "/"),
        ("/v1/users", "/v1/", "/users"),
        ("/v1x", "/v1", "/x"),
        ("/a/b", "", "/a/b"),
        ("/a%2Fb/c", "/a%2Fb", "/c"),
    ],
)
def test_strips_what_was_matched(path: str, matched: str, expected: str) -> None:
    assert strip(path, matched) == expected


@pytest.mark.parametrize(("path", "matched"), [("/v1..", "/v1"), ("/v1../x", "/v1"), ("/a.;b", "/a"), ("/a%", "/")])
def test_N16_what_is_left_is_judged_anew(path: str, matched: str) -> None:
    with pytest.raises(BadRequest):
        strip(path, matched)
