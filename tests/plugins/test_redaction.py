"""What logs mask, and that any entry becomes one harmless line."""

from __future__ import annotations

import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwproxy.plugins.redaction import MASK, Redaction, encode, form_of, timestamp


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "proxy-authorization", "Cookie", "set-cookie", "X-Api-Key", "api_key", "apikey", "access_token"),
        *("X-Auth-Token", "clientSecret", "new_password", "__Host-session", "X-Signature", "id_token", "private_key"),
    ],
)
def test_H20_names_of_secrets_are_hidden_without_being_named(name):
    assert Redaction().hides(name)


@pytest.mark.parametrize("name", ["max_tokens", "keyboard", "author", "passport_country", "id", "code", "cookies_accepted", ""])
def test_other_names_are_not(name):
    assert not Redaction().hides(name)


@pytest.mark.parametrize("name", ["card_number", "cardNumber", "Card-Number", "CARDNUMBER"])
def test_a_name_is_found_in_any_spelling(name):
    assert Redaction(["card_number"]).hides(name)
    assert not Redaction().hides(name)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ""),
        ("a=1&b=2", "a=1&b=2"),
        ("a=1&token=abc&b=2", "a=1&token=***&b=2"),
        ("token=a&token=b", "token=***&token=***"),
        ("token=", "token=***"),
        ("token", "token"),
        ("a=b=token&key=x=y", "a=b=token&key=***"),
        ("%74oken=abc", "%74oken=***"),
        ("api+key=1&api%2Dkey=2", "api+key=1&api%2Dkey=***"),
        ("user[password]=x&user[name]=y", "user[password]=***&user[name]=y"),
        ("a.secret=x", "a.secret=***"),
        ("code=oauth", "code=***"),
        ("&&=1&", "&&=1&"),
        ("n=%ff%zz&password=%00", "n=%ff%zz&password=***"),
    ],
)
def test_queries_keep_their_form_and_lose_their_secrets(query, shown):
    assert Redaction().query(query) == shown


def test_operators_names_are_masked_in_queries_too():
    assert Redaction(["email"]).query("Email=a%40b.c&q=x") == "Email=***&q=x"


def test_long_names_are_judged_like_short_ones():
    assert Redaction().query("x" * 5000 + "_password=1") == "x" * 5000 + "_password=***"
    assert Redaction().hides("x" * 5000 + "_password")
    assert Redaction().query("y" * 5000 + "=1") == "y" * 5000 + "=1"


def test_json_fields_are_masked_at_any_depth():
    value = {"user": {"name": "Jo", "password": {"old": 1}}, "list": [{"token": "x", "n": 1}, 2], "ssn": "1"}
    assert Redaction(["ssn"]).json(value) == {
        "user": {"name": "Jo", "password": MASK},
        "list": [{"token": MASK, "n": 1}, 2],
        "ssn": MASK,
    }
    assert value["list"][0]["token"] == "x", "the value itself stays"


def test_json_deeper_than_anybody_reads_is_masked_not_followed():
    value = orjson.loads('{"a":' * 500 + "1" + "}" * 500)
    shown = orjson.dumps(Redaction().json(value))
    assert shown.count(b"a") == 32
    assert MASK.encode() in shown
    assert orjson.dumps(Redaction().json(orjson.loads("[" * 500 + "]" * 500))) == b"[" * 32 + b'"***"' + b"]" * 32


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("application/json", "json"),
        ("Application/JSON; charset=utf-8", "json"),
        ("application/problem+json", "json"),
        ("application/x-www-form-urlencoded", "form"),
        ("text/plain", "text"),
        ("text/event-stream", None),
        ("application/x-ndjson", None),
        ("application/octet-stream", None),
        ("multipart/form-data; boundary=x", None),
        ("", None),
        (None, None),
    ],
)
def test_how_a_body_can_be_read(content_type, form):
    assert form_of(content_type) == form


def test_H19_control_characters_are_escaped():
    line = encode({"path": 'a"\x1b[2J\x00\r\n\x7f\x9b31m\x85é'})
    assert line == b'{"path":"a\\"\\u001b[2J\\u0000\\r\\n\\u007f\\u009b31m\\u0085\xc3\xa9"}'
    assert orjson.loads(line) == {"path": 'a"\x1b[2J\x00\r\n\x7f\x9b31m\x85é'}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\ud800x", "\\ud800x"),
        (1 << 70, str(1 << 70)),
        ([{"k": "\udfff"}], [{"k": "\\udfff"}]),
        ({1: "\ud800"}, {"1": "\\ud800"}),
    ],
)
def test_what_json_cannot_hold_is_written_as_text(value, shown):
    assert orjson.loads(encode({"ok": 1, "odd": value})) == {"ok": 1, "odd": shown}


def test_objects_are_written_as_text():
    assert orjson.loads(encode({"user_id": 1j, "odd": "\ud800"}))["user_id"] == "1j"
    assert orjson.loads(encode({"user_id": 1j}))["user_id"] == "1j"


texts = st.text(st.characters(codec=None), max_size=20)


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=20,
    )
)
def test_any_entry_becomes_one_line_of_json(value):
    line = encode({"value": value})
    assert not re.search(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]", line)
    assert set(orjson.loads(line)) == {"value"}


def test_times_are_utc_with_milliseconds():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp())
    assert timestamp() <= timestamp()
