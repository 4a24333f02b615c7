from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwproxy.http.headers import Headers, Shared, carried, check_field, field

_ITEMS = [("X-A", "1"), ("Host", "h"), ("x-a", "2")]


def test_headers_that_share_fields_know_for_how_long_they_do() -> None:
    shared = Shared([field(name, value) for name, value in _ITEMS])
    first, second = Headers.sharing(shared), Headers.sharing(shared)
    first.add("X-B", "3")
    assert first.shared() is shared
    first.remove("Host")
    assert first.shared() is None
    first.add("Host", "h")
    assert first.shared() is None  # they are the same fields, but not in that order
    assert (second.items(), second.shared()) == (_ITEMS, shared)
    del second["x-a"], second["host"]
    assert (len(second), second.shared(), len(shared.items)) == (0, None, 3)
    assert Headers(_ITEMS).shared() is None


def test_fields_keep_their_order_repetitions_and_spelling() -> None:
    headers = Headers(_ITEMS)
    assert headers.items() == _ITEMS
    assert headers.lower_items() == [("x-a", "X-A", "1"), ("host", "Host", "h"), ("x-a", "x-a", "2")]
    assert list(headers) == ["X-A", "Host"]
    assert len(headers) == 3


def test_fields_are_found_without_regard_to_case() -> None:
    headers = Headers(_ITEMS)
    assert headers["X-a"] == headers.get("x-A") == "1"
    assert headers.getlist("X-A") == ["1", "2"]
    assert "HOST" in headers
    assert "X-B" not in headers
    assert 1 not in headers


def test_a_field_that_is_not_there() -> None:
    headers = Headers(_ITEMS)
    assert headers.get("X-B") is None
    assert headers.get("X-B", "d") == "d"
    assert headers.getlist("X-B") == []
    with pytest.raises(KeyError):
        headers["X-B"]
    with pytest.raises(KeyError):
        del headers["X-B"]
    headers.remove("X-B")
    assert headers.items() == _ITEMS


def test_assignment_replaces_every_field_of_the_name() -> None:
    headers = Headers(_ITEMS)
    headers["X-a"] = "3"
    headers["New"] = "n"
    assert headers.items() == [("Host", "h"), ("X-a", "3"), ("New", "n")]
    assert headers["x-a"] == "3"


def test_add_leaves_those_of_the_same_name() -> None:
    headers = Headers(_ITEMS)
    headers.add("X-A", "3")
    headers.add("New", "n")
    assert headers.getlist("x-a") == ["1", "2", "3"]
    assert (headers["x-a"], headers["new"]) == ("1", "n")


def test_setdefault_leaves_what_is_there() -> None:
    headers = Headers(_ITEMS)
    assert headers.setdefault("x-A", "9") == "1"
    assert headers.setdefault("New", "n") == "n"
    assert headers.items() == [*_ITEMS, ("New", "n")]


@pytest.mark.parametrize("how", ["remove", "del"])
def test_removing_takes_every_field_of_the_name(how: str) -> None:
    headers = Headers(_ITEMS)
    if how == "remove":
        headers.remove("X-a")
    else:
        del headers["X-a"]
    assert headers.items() == [("Host", "h")]
    assert "x-a" not in headers


def test_update_replaces_what_the_other_names() -> None:
    headers = Headers(_ITEMS)
    headers.update(Headers([("x-A", "7"), ("New", "n"), ("X-A", "8")]))
    assert headers.items() == [("Host", "h"), ("x-A", "7"), ("New", "n"), ("X-A", "8")]
    assert headers["x-a"] == "7"


def test_update_with_nothing_or_with_itself_changes_nothing() -> None:
    headers = Headers(_ITEMS)
    headers.update(Headers())
    headers.update(headers)
    assert headers.items() == _ITEMS


def test_update_shares_nothing_with_the_other() -> None:
    headers, other = Headers(), Headers([("A", "1")])
    headers.update(other)
    headers.add("B", "2")
    assert other.items() == [("A", "1")]


def test_a_copy_shares_nothing() -> None:
    headers = Headers(_ITEMS)
    copy = headers.copy()
    copy["Host"] = "other"
    copy.add("X-B", "1")
    assert headers == Headers(_ITEMS)
    assert copy != headers


def test_adopted_items_are_found_like_any() -> None:
    headers = Headers.adopt([field("X-A", "1"), field("x-a", "2")])
    assert headers == Headers([("X-A", "1"), ("x-a", "2")])
    assert headers["X-A"] == "1"


def test_equal_means_the_same_fields_as_spelled() -> None:
    assert Headers(_ITEMS) == Headers(_ITEMS)
    assert Headers([("A", "1")]) != Headers([("a", "1")])
    assert Headers() != []
    with pytest.raises(TypeError):
        hash(Headers())


def test_no_headers_are_false() -> None:
    assert not Headers()
    assert Headers(_ITEMS)


def test_H20_values_are_not_in_the_repr() -> None:
    assert repr(Headers([("Authorization", "Bearer secret")])) == "Headers(['Authorization'])"


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\rb", "a\x00", "\x7f", "\x1b[0m", "\u0100", "€"])
def test_H14_H15_what_cannot_stand_in_a_value_is_refused(value: str) -> None:
    headers = Headers(_ITEMS)
    for write in (headers.__setitem__, headers.add, headers.setdefault):
        with pytest.raises(ValueError, match="header New") as caught:
            write("New", value)
        assert value not in str(caught.value)
    assert headers.items() == _ITEMS


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "é", "a\x00", "(a)"])
def test_H14_H15_what_is_no_name_is_refused(name: str) -> None:
    headers = Headers(_ITEMS)
    for write in (headers.__setitem__, headers.add):
        with pytest.raises(ValueError, match="not a header name"):
            write(name, "v")
    assert headers.items() == _ITEMS


@pytest.mark.parametrize("value", ["", "a\tb", "\xe9\xff", "a" * 10_000])
def test_H13_any_other_value_can_be_set(value: str) -> None:
    check_field("X-A!#$%&'*+-.^_`|~", value)


_NAMES = st.sampled_from(["A", "a", "B", "b", "C"])
_STEPS = st.tuples(st.sampled_from(["set", "add", "remove", "update", "setdefault"]), _NAMES, st.sampled_from("12"))


@given(st.lists(_STEPS, max_size=12))
def test_reading_agrees_with_the_fields_after_any_changes(steps: list[tuple[str, str, str]]) -> None:
    headers, plain = Headers(), list[tuple[str, str]]()
    for step, name, value in steps:
        others = [item for item in plain if item[0].lower() != name.lower()]
        if step == "set":
            headers[name] = value
            plain = [*others, (name, value)]
        elif step == "add":
            headers.add(name, value)
            plain = [*plain, (name, value)]
        elif step == "remove":
            headers.remove(name)
            plain = others
        elif step == "update":
            headers.update(Headers([(name, value), (name, "3")]))
            plain = [*others, (name, value), (name, "3")]
        else:
            headers.setdefault(name, value)
            plain = plain if len(others) < len(plain) else [*plain, (name, value)]
    assert headers.items() == plain
    for name in "abc":
        values = [value for own, value in plain if own.lower() == name]
        assert headers.getlist(name) == values
        assert headers.get(name) == (values[0] if values else None)
        assert (name in headers) == bool(values)


def test_what_others_sent_may_hold_what_we_never_write() -> None:
    assert Headers([("X-A", "\x1b[0m")])["X-A"] == carried("X-A", "\x1b[0m")[2] == "\x1b[0m"
    with pytest.raises(ValueError, match="X-A"):
        field("X-A", "\x1b[0m")


@pytest.mark.parametrize(
    ("name", "value"), [("X", "a\r\nY: b"), ("X", "a\nb"), ("X", "a\rb"), ("X", "\0"), ("X\r\nY", "a"), ("X", "\u20ac")]
)
def test_H14_H15_no_line_can_be_made_of_what_would_be_two(name: str, value: str) -> None:
    for make in (field, carried, lambda name, value: Headers([(name, value)])):
        with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
            make(name, value)
