"""Detectors of personal data: what they find, what they leave, what remains of it, and how long they take."""

from __future__ import annotations

import socket
import time

import gevent
import orjson
import pytest
from gevent import socket as cooperative
from hypothesis import given, settings
from hypothesis import strategies as st

from gwproxy.plugins import pii
from gwproxy.plugins.pii import DETECTORS, Detector, Findings, Scanner, compile_pattern, mask

SCANNER = Scanner(["email", "first_name", "card_number"], DETECTORS.values())


def found(text: str) -> list[tuple[str, str]]:
    findings = Findings()
    SCANNER.value(findings, "here", "field", text)
    return [(field["kind"], field["masked"]) for field in findings.fields(str)]


def in_json(value: object, scanner: Scanner = SCANNER) -> dict[str, tuple[str, str, int]]:
    findings = Findings()
    scanner.json(findings, "response", value)
    return {field["name"]: (field["kind"], field["masked"], field["count"]) for field in findings.fields(scanner.clean)}


@pytest.mark.parametrize(
    ("text", "kind", "masked"),
    [
        ("jane.doe@example.com", "email", "j***@e***.com"),
        ("write to <Jane+tag@mail.example.co.uk>!", "email", "J***@m***.uk"),
        ("jürgen@müller.example", "email", "j***@m***.example"),
        ("4111111111111111", "card", "***1111"),
        ("card 4111 1111 1111 1111 20 exp", "card", "***1111"),
        ("5500-0000-0000-0004", "card", "***0004"),
        ("222 33 4111 1111 1111 1111 5x", "card", "***1111"),
        ("AB12 DE89370400440532013000", "iban", "DE***3000"),
        ("378282246310005", "card", "***0005"),
        ("2223003122003222", "card", "***3222"),
        ("DE89370400440532013000", "iban", "DE***3000"),
        ("iban: DE89 3704 0044 0532 0130 00 at my bank", "iban", "DE***3000"),
        ("gb29nwbk60161331926819", "iban", "gb***6819"),
        ("NO9386011117947", "iban", "NO***7947"),
        ("+49 151 2345678", "phone", "+49***78"),
        ("+1 (555) 010-9999", "phone", "+1 ***99"),
        ("call +4915112345678, please", "phone", "+49***78"),
    ],
)
def test_what_is_found_and_what_remains_of_it(text, kind, masked):
    assert found(text) == [(kind, masked)]


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "a@b", "user@", "@example.com", "a @ b.de", "user@localhost", "see @jane and @joe.b"),
        *(
            "4111111111111112",
            "4222222222222",
            "1111111111111117",
            "1764000000000",
            "9999999999999995",
            "x4111111111111111",
            "41111111111111110000000",
        ),
        *("DE88370400440532013000", "DE89", "AB12 not an account at all", "XDE89370400440532013000"),
        *(
            "5551234567",
            "+1",
            "+12 34",
            "1+23456",
            "a+b@c",
            "+0123456789",
            "2026-01-02T03:04:05.678Z",
            "550e8400-e29b-41d4-a716-446655440000",
        ),
    ],
)
def test_what_is_left_alone(text):
    assert found(text) == []


def test_several_in_one_text():
    assert sorted(found("a.b@example.com, c.d@example.org or +4915112345678")) == [("email", "a***@e***.com"), ("phone", "+49***78")]


def test_a_value_across_the_pieces_of_a_long_text_is_found(monkeypatch):
    for offset in range(-20, 5):
        text = "." * (pii.PIECE + offset) + " jane@example.com " + " " * 50
        assert ("email", "j***@e***.com") in found(text)


@pytest.mark.parametrize(("text", "masked"), [("Jane Doe", "J***"), ("12345", "1***"), ("Jane", "***"), ("x", "***")])
def test_values_of_no_known_form(text, masked):
    assert mask(text) == masked


def test_fields_are_found_by_name_at_any_depth_in_any_spelling():
    value = {"data": {"users": [{"firstName": "Jane-Marie", "E-Mail": "x"}, {"first_name": "Bo", "id": 7}]}, "other": "Jane"}
    assert in_json(value) == {
        "data.users[].firstName": ("first_name", "J***", 1),
        "data.users[].E-Mail": ("email", "***", 1),
        "data.users[].first_name": ("first_name", "***", 1),
    }


def test_all_that_is_below_a_personal_name_is_personal():
    assert in_json({"card_number": {"pan": 4111111111111111, "parts": ["4111", {"last": 1.5}], "none": None, "ok": True}}) == {
        "card_number.pan": ("card_number", "***1111", 1),
        "card_number.parts[]": ("card_number", "***", 1),
        "card_number.parts[].last": ("card_number", "***", 1),
    }


def test_many_of_a_field_are_one_with_a_count():
    assert in_json([{"email": f"user{n}@example.com"} for n in range(1000)]) == {"[].email": ("email", "u***@e***.com", 1000)}


def test_numbers_are_cards_when_they_are():
    assert in_json({"a": 4111111111111111, "b": 12, "c": 4111111111111112, "d": 5.5e15}) == {"a": ("card", "***1111", 1)}


def test_keys_that_are_addresses_are_found_and_not_shown():
    assert in_json({"members": {"jane@example.com": {"mail": "joe@example.org"}}}) == {
        "members": ("email", "j***@e***.com", 1),
        "members.***.mail": ("email", "j***@e***.org", 1),
    }


def test_names_too_long_to_show_are_not_cut_in_half():
    shown = in_json({"x" * 120 + " +4915112345678": {"v": "joe@example.org"}})
    assert set(shown) == {"....v"}


def test_a_hundred_fields_are_enough():
    findings = Findings()
    SCANNER.json(findings, "response", {f"f{n}": f"u{n}@example.com" for n in range(150)})
    assert len(findings.fields(str)) == 100
    assert findings.truncated


def test_values_beyond_the_bound_are_not_looked_at_and_that_is_said(monkeypatch):
    monkeypatch.setattr(pii, "MOST_VALUES", 10)
    for scan, value in ((SCANNER.json, [*[1] * 10, "a@example.com"]), (SCANNER.pairs, [*[("n", "v")] * 10, ("n", "a@example.com")])):
        findings = Findings()
        scan(findings, "request", value)
        assert findings.truncated
        assert findings.fields(str) == []


def test_others_get_their_turn_while_a_long_body_is_looked_at(monkeypatch):
    turns = []
    monkeypatch.setattr(pii.time, "sleep", turns.append)
    in_json(["x"] * 1000)
    assert len(turns) == 1000 // pii.BREATH
    turns.clear()
    found("x" * 10 * pii.PIECE)
    assert len(turns) == 10


@pytest.mark.parametrize(
    "text",
    ["a" * 260_000 + "@", "@" * 260_000, "a." * 130_000 + "@x", "4 " * 130_000, "4444 " * 52_000, "AT12 " * 52_000, "+1 2 " * 52_000],
)
def test_N17_hostile_texts_take_linear_time(text):
    began = time.process_time()
    assert found(text) == []
    whole = time.process_time() - began
    assert whole < 2, "quadratic time would be minutes"


def test_deep_bodies_do_not_make_long_names():
    value = orjson.loads('{"kkkkkkkkkkkkkkkkkkkk":' * 1000 + '"a@example.com"' + "}" * 1000)
    (name,) = in_json(value)
    assert len(name) < 3 * pii.LONGEST_NAME


@pytest.mark.parametrize("pattern", ["(", "(?=x)", r"(a)\1", "a*", "", "(a{1000}){1000}"])
def test_N17_what_is_no_usable_expression_is_refused(pattern):
    with pytest.raises(ValueError, match=r"."):
        compile_pattern(pattern)


def test_a_pattern_of_the_operators_own():
    scanner = Scanner([], [Detector("staff", compile_pattern(r"EMP-[0-9]{4}"), "", 1, 0, str, mask)])
    assert in_json({"note": "by EMP-1234"}, scanner) == {"note": ("staff", "E***", 1)}
    assert scanner.clean("/staff/EMP-1234") == "/staff/E***"


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=60),
    st.sampled_from(["jane.doe@example.com", "4111111111111111", "DE89370400440532013000", "+4915112345678"]),
    st.text(max_size=60),
)
def test_no_value_survives_in_what_is_returned(before, value, after):
    findings = Findings()
    SCANNER.json(findings, "request", {"a": f"{before} {value} {after}", "email": value})
    assert value not in repr(findings.fields(SCANNER.clean))
    assert value not in SCANNER.clean(f"{before} {value} {after}")


@pytest.mark.parametrize("value", ["x " * 100_000, ["x"] * 10_000], ids=["one-long-value", "many-values"])
def test_what_has_arrived_is_read_at_once_while_a_large_body_is_scanned(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: (turns.append(seconds), gevent.sleep(seconds)))  # as in a worker
    ours, theirs = socket.socketpair()
    taken: list[int] = []
    reader = gevent.spawn(lambda: (cooperative.socket(fileno=ours.detach()).recv(10), taken.append(len(turns))))
    gevent.sleep(1e-9)  # it waits
    theirs.send(b"request")
    in_json({"field": value})
    reader.kill()
    theirs.close()
    assert len(turns) > 100
    assert max(taken, default=len(turns)) <= 3
