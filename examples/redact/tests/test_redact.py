import gzip
import json
from typing import Any

import pytest
from gwproxy.testing import Answer, ConfigurationRefused, InProcessGateway, Reply

from gwproxy_redact import Redact

JSON = ("Content-Type", "application/json")


def asked(gateway: InProcessGateway, document: Any, config: dict[str, Any] | None = None) -> Any:
    gateway.use(Redact, config)
    gateway.upstream.reply(json=document)
    return gateway.get().json()


@pytest.mark.parametrize(
    ("document", "fields", "redacted"),
    [
        ({"id": 7, "email": "ann"}, ["email"], {"id": 7, "email": "***"}),
        ({"a": [{"E-Mail": "ann"}, {"e_mail": None}]}, ["email"], {"a": [{"E-Mail": "***"}, {"e_mail": "***"}]}),
        ({"address": {"street": "High St", "no": [1]}}, ["address"], {"address": "***"}),
        ({"id": 1, "patient": {"id": 2, "x": {"id": 3}}}, ["patient.id"], {"id": 1, "patient": {"id": "***", "x": {"id": 3}}}),
        ({"patient": [{"id": 2}]}, ["patient.id"], {"patient": [{"id": "***"}]}),
        ([{"email": 1}], ["email"], [{"email": "***"}]),
        ("email", ["email"], "email"),
    ],
)
def test_fields_are_redacted_by_name_at_any_depth(gateway: InProcessGateway, document: Any, fields: list[str], redacted: Any) -> None:
    assert asked(gateway, document, {"fields": fields, "patterns": []}) == redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to ann@example.com or Bob.B+x@mail.example.org!", "write to *** or ***!"),
        ("josé@exämple.com", "***"),
        ("card 4111 1111 1111 1111 of 5500-0000-0000-0004", "card *** of ***"),
        (4111111111111111, "***"),
        ("order 12345, room 4111", "order 12345, room 4111"),
        (4111.5, 4111.5),
        (True, True),
    ],
)
def test_values_are_redacted_by_what_they_look_like(gateway: InProcessGateway, text: Any, redacted: Any) -> None:
    assert asked(gateway, {"note": [text]}) == {"note": [redacted]}


def test_names_are_looked_at_too_and_what_stands_in_their_place_is_taken_as_it_is(gateway: InProcessGateway) -> None:
    assert asked(gateway, {"ann@example.com": 1}, {"replacement": r"\1<>"}) == {r"\1<>": 1}


def test_what_holds_nothing_personal_passes_byte_for_byte(gateway: InProcessGateway) -> None:
    body = b'{ "price": 1.10, "big": 123456789012345678901234567890, "text": "\\u00e9" }\n'
    gateway.use(Redact)
    gateway.upstream.reply(body=body, headers=[JSON, ("ETag", '"1"')])
    answer = gateway.get()
    assert (answer.body, answer.headers["ETag"]) == (body, '"1"')


def test_numbers_of_a_redacted_document_stay_exact(gateway: InProcessGateway) -> None:
    gateway.use(Redact)
    gateway.upstream.reply(body=b'{"email": 1, "big": 123456789012345678901234567890}', headers=[JSON])
    assert gateway.get().text == '{"email":"***","big":123456789012345678901234567890}'


def test_the_tag_of_what_was_changed_goes(gateway: InProcessGateway) -> None:
    gateway.use(Redact)
    gateway.upstream.reply(json={"email": "ann"}, headers=[("ETag", '"1"')])
    answer = gateway.get()
    assert "ETag" not in answer.headers
    assert answer.headers["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize(
    ("kind", "looked_at"),
    [("application/json; charset=utf-8", True), ("application/problem+JSON", True), ("text/html", False), ("application/x-ndjson", False)],
)
def test_json_is_known_by_its_type(gateway: InProcessGateway, kind: str, looked_at: bool) -> None:
    gateway.use(Redact)
    gateway.upstream.reply(body=b'{"email":"ann"}', headers=[("Content-Type", kind)])
    assert gateway.get().text == ('{"email":"***"}' if looked_at else '{"email":"ann"}')


UNREADABLE = {
    "broken": Reply(200, [JSON], b'{"email": "ann"'),
    "not UTF-8": Reply(200, [JSON], b'{"email": "\xff"}'),
    "too deep": Reply(200, [JSON], b"[" * 5000 + b"]" * 5000),
    "a name twice": Reply(200, [JSON], b'{"email": "ann", "email": "***"}'),
    "half a character": Reply(200, [JSON], b'{"email": "ann", "note": "\\ud800"}'),
    "too long": Reply(200, [JSON], json.dumps({"email": "x" * 2_000_000}).encode()),
    "in a coding": Reply(200, [JSON, ("Content-Encoding", "gzip")], gzip.compress(b'{"email": "ann"}')),
}


def answered(gateway: InProcessGateway, reply: Reply, **config: str) -> Answer:
    gateway.use(Redact, config)
    gateway.upstream.answering = lambda seen: reply
    return gateway.get()


@pytest.mark.parametrize("reply", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_looked_at_is_refused(gateway: InProcessGateway, reply: Reply) -> None:
    answer = answered(gateway, reply)
    assert (answer.status, answer.json()) == (502, {"error": "Bad Gateway"})


@pytest.mark.parametrize("reply", UNREADABLE.values(), ids=UNREADABLE)
def test_or_passed_on_where_the_operator_says_so(gateway: InProcessGateway, reply: Reply) -> None:
    answer = answered(gateway, reply, unreadable="pass")
    assert (answer.status, answer.body) == (200, reply.body)


@pytest.mark.parametrize("reply", [Reply(204), Reply(304, [JSON]), Reply(200, [JSON])], ids=lambda reply: str(reply.status))
def test_a_response_without_a_body_passes(gateway: InProcessGateway, reply: Reply) -> None:
    assert (answered(gateway, reply).status, gateway.request("HEAD").status) == (reply.status, reply.status)


def test_upstreams_are_asked_for_the_whole_and_for_plain_text(gateway: InProcessGateway) -> None:
    gateway.use(Redact)
    seen = gateway.get(headers={"Accept-Encoding": "gzip, br", "Range": "bytes=0-9"}).upstream
    assert seen.headers["Accept-Encoding"] == "identity"
    assert "Range" not in seen.headers


def test_a_long_document_is_read_beside_other_requests(gateway: InProcessGateway) -> None:
    rows = [{"id": number, "email": f"p{number}@example.com"} for number in range(5000)]
    assert asked(gateway, rows) == [{"id": number, "email": "***"} for number in range(5000)]


@pytest.mark.parametrize("wrong", [{"patterns": ["("]}, {"fields": ["a..b"]}, {"fields": [""]}, {"unreadable": "drop"}])
def test_what_is_refused(gateway: InProcessGateway, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationRefused):
        gateway.use(Redact, wrong)
