"""Who saw what and when: pii_log, each key of it, through running workers; and that no value is in any log."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.records import entries, entry_of, lines_of
from tests.e2e.scripted import ScriptedService
from tests.e2e.signers import token

pytestmark = pytest.mark.e2e

SECRET = "a-secret-of-more-than-32-bytes-for-tests"
JWT = {"name": "jwt_auth", "config": {"secret": SECRET}}
ALWAYS = {
    *("timestamp", "route", "user_id", "consumer", "client_ip", "method", "path", "request_id", "status", "completed", "fields"),
}
EMAIL, CARD, IBAN, PHONE = "john.doe@example.com", "4111 1111 1111 1111", "DE89370400440532013000", "+49 30 901820"
PERSONAL = (EMAIL, "doe", CARD, "41111", IBAN, "89370", PHONE, "901820", "Johnny", "Main Street")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pii")


@pytest.fixture(scope="module")
def service() -> Iterator[ScriptedService]:
    service = ScriptedService()
    yield service
    service.close()


def pii(**config: Any) -> list[dict[str, Any]]:
    return [{"name": "pii_log", "config": config}]


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, folder: Path
) -> GatewayProcess:
    narrow = {
        "fields": ["nick_name"],
        "patterns": ["iban"],
        "where": ["query", "request"],
        "customPatterns": {"staff": r"\bEMP-[0-9]{6}\b"},
    }
    routes: list[dict[str, Any]] = [
        {"id": "open", "path": "/pii/open", "plugins": pii()},
        {"id": "users", "path": "/pii/users/{email}", "plugins": [JWT, *pii()]},
        {"id": "narrow", "path": "/pii/narrow", "plugins": pii(**narrow)},
        {"id": "short", "path": "/pii/short", "plugins": pii(scanLimit="1KiB", sinks=["file"], file=str(folder / "pii.log"))},
        {"id": "stdout", "path": "/pii/stdout", "plugins": pii(sinks=["stdout"])},
    ]
    consumers = [{"id": "acme", "match": {"user_id": "alice"}}]
    document = {
        "plugins": [{"name": "access_log"}],
        "consumers": consumers,
        "routes": [{"upstream": service.url, **route} for route in routes],
    }
    publish(redis_server, document)
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url, GWPROXY_LOG_LEVEL="debug").ready()


@pytest.fixture
def ident() -> str:
    """Return the id of a request, by which its entry is found."""
    return f"test-{uuid4()}"


def bearer(user: str = "alice") -> dict[str, str]:
    return {"Authorization": f"Bearer {token('HS256', SECRET.encode(), {'sub': user, 'exp': time.time() + 300})}"}


def json_answer(body: Any, *fields: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = ("HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(data)}", *fields, "", "")
    return "\r\n".join(lines).encode() + data


def test_who_saw_what_and_when(gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str) -> None:
    user = {"name": "x", "phone": PHONE, "address": {"street": "Main Street 1"}, "orders": [{"note": f"to {IBAN}"}, {"note": IBAN}]}
    service.on(f"/pii/users/{EMAIL}", json_answer(user))
    headers = {**bearer(), "X-Request-ID": ident}
    answer = gateway.request(
        "POST", f"/pii/users/{EMAIL}?q={CARD.replace(' ', '+')}&n=4111", json={"first_name": "Johnny"}, headers=headers
    )
    assert answer.json() == user
    assert json.loads(service.next(f"/pii/users/{EMAIL}").body) == {"first_name": "Johnny"}
    entry = entry_of(redis_server, ident, "gw:pii_log")
    assert entry.keys() == ALWAYS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["timestamp"])
    who = {name: entry[name] for name in ("route", "user_id", "consumer", "client_ip", "method", "path", "status", "completed")}
    assert who == {
        "route": "users",
        "user_id": "alice",
        "consumer": "acme",
        "client_ip": "127.0.0.1",
        "method": "POST",
        "path": "/pii/users/j***@e***.com",
        "status": 200,
        "completed": True,
    }
    assert [tuple(field.values()) for field in entry["fields"]] == [
        ("path", "email", "email", "j***@e***.com", 1),
        ("query", "q", "card", "***1111", 1),
        ("request", "first_name", "first_name", "J***", 1),
        ("response", "phone", "phone", "+49***20", 1),
        ("response", "address.street", "address", "M***", 1),
        ("response", "orders[].note", "iban", "DE***3000", 2),
    ]
    assert not [value for value in PERSONAL if value in json.dumps(entry)]


def test_only_what_is_configured_is_looked_for(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    service.on("/pii/narrow", json_answer({"nickName": "Johnny", "iban": IBAN}))
    body = {"Nick-Name": "Johnny", "note": "by EMP-123456", "phone": PHONE, "mail": EMAIL, "to": IBAN[:-1] + "1"}
    gateway.request("POST", f"/pii/narrow?email={EMAIL}&to={IBAN}", json=body, headers={"X-Request-ID": ident})
    assert [tuple(field.values()) for field in entry_of(redis_server, ident, "gw:pii_log")["fields"]] == [
        ("query", "to", "iban", "DE***3000", 1),
        ("request", "Nick-Name", "nick_name", "J***", 1),
        ("request", "note", "staff", "E***", 1),
    ]


def test_nothing_personal_makes_no_entry_and_what_was_not_read_is_noted(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, folder: Path, ident: str
) -> None:
    service.on("/pii/open", json_answer(gzip.compress(json.dumps({"email": EMAIL}).encode()), "Content-Encoding: gzip"))
    service.on("/pii/open/nothing", json_answer({"card": "4111 1111 1111 1112", "iban_like": "DE00", "n": 17, "phone": None}))
    service.on("/pii/short", json_answer({"email": EMAIL, "more": "x" * 1024}))
    for path in ("open/nothing", "open", "short"):
        gateway.get(f"/pii/{path}", headers={"X-Request-ID": f"{ident}-{path}"})
    packed = entry_of(redis_server, f"{ident}-open", "gw:pii_log")
    assert [field["masked"] for field in packed["fields"]] == ["j***@e***.com"]
    until(lambda: lines_of((folder / "pii.log").read_text(), f"{ident}-short"), "the line in the file")
    (short,) = lines_of((folder / "pii.log").read_text(), f"{ident}-short")
    assert (short["fields"], short["unread"]) == ([], ["response"])
    entry_of(redis_server, f"{ident}-open/nothing")  # written after those of pii_log
    assert not entries(redis_server, f"{ident}-open/nothing", "gw:pii_log")
    assert not entries(redis_server, f"{ident}-short", "gw:pii_log")


def test_a_response_that_breaks_off_is_on_record(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    service.on("/pii/open/cut", json_answer({"email": EMAIL}, "Connection: close")[:-5])
    with pytest.raises(requests.RequestException):
        gateway.get(f"/pii/open/cut?email={EMAIL}", headers={"X-Request-ID": ident})
    entry = entry_of(redis_server, ident, "gw:pii_log")
    assert (entry["completed"], entry["unread"], entry["fields"][0]["where"]) == (False, ["response"], "query")


def test_no_log_of_the_gateway_holds_personal_data(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    service.on("/pii/stdout", json_answer({"email": EMAIL, "to": IBAN, "address": {"street": "Main Street 1"}}))
    body = {"phone": PHONE, "last_name": "Johnny", "card": CARD}
    gateway.request("POST", f"/pii/stdout?to={IBAN}", json=body, headers={"X-Request-ID": ident})
    until(lambda: lines_of(gateway.output(), ident), "the line on standard output")
    (entry,) = lines_of(gateway.output(), ident)
    assert len(entry["fields"]) == 7
    assert not entries(redis_server, ident, "gw:pii_log")
    assert "Traceback" not in gateway.output()
    assert not [value for value in PERSONAL if value in gateway.output()]
