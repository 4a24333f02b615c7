"""The access log and the audit as streams of events."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator

import pytest
import redis
from werkzeug.test import TestResponse

from gwproxy.admin import events
from gwproxy.admin.app import AdminApp
from tests.admin.conftest import Api
from tests.conftest import Server

EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL", 0.01)


def log(client: redis.Redis, *idents: str) -> None:
    for ident in idents:
        client.rpush("gw:access_log", f'{{"request_id": "{ident}", "path": "/{ident}"}}')


def stream(api: Api, **headers: str) -> tuple[TestResponse, Iterator[bytes]]:
    answer = api.get("/v1/logs?count=2", headers={**EVENTS, **headers}, buffered=False)
    assert answer.status_code == 200
    return answer, iter(answer.response)


def ids(piece: bytes) -> list[str]:
    return [line[4:].decode() for line in piece.splitlines() if line.startswith(b"id: ")]


def test_entries_as_json_newest_last(api: Api, client: redis.Redis) -> None:
    log(client, "a", "b", "c")
    client.rpush("gw:access_log", b"{nonsense \xff")
    assert [entry.get("path") for entry in api.json("/v1/logs?count=3")["entries"]] == ["/b", "/c", None]
    assert api.json("/v1/logs?count=1")["entries"] == [{"malformed": "{nonsense \\xff"}]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/event-stream", "text/event-stream"),
        ("text/event-stream, */*;q=0.1", "text/event-stream"),
    ],
)
def test_what_is_accepted_decides(api: Api, accept: str, kind: str) -> None:
    with api.get("/v1/logs", headers={"Accept": accept}, buffered=False) as answer:
        assert answer.mimetype == kind


def test_neither_is_accepted(api: Api) -> None:
    assert api.get("/v1/logs", headers={"Accept": "text/html"}).status_code == 406


def test_the_newest_then_what_comes(api: Api, client: redis.Redis) -> None:
    log(client, "a", "b", "c")
    answer, pieces = stream(api)
    first = next(pieces)
    assert first.startswith(b"retry: 2000\n\n")
    assert ids(first) == ["b", "c"]
    assert b'\ndata: {"request_id":"c","path":"/c"}\n\n' in first
    log(client, "d", "e")
    assert ids(next(pieces)) == ["d", "e"]
    answer.close()


def test_who_comes_back_gets_what_came_since(api: Api, client: redis.Redis) -> None:
    log(client, *"abcdefg")
    answer, pieces = stream(api, **{"Last-Event-ID": "c"})
    assert ids(next(pieces)) == ["d", "e", "f", "g"]
    answer.close()
    answer, pieces = stream(api, **{"Last-Event-ID": "g"})
    assert ids(next(pieces)) == []
    log(client, "h")
    assert ids(next(pieces)) == ["h"]
    answer.close()
    answer, pieces = stream(api, **{"Last-Event-ID": "long-gone"})
    assert ids(next(pieces)) == ["g", "h"]
    answer.close()


@pytest.mark.parametrize("ident", ["a\\nb", "", "ä", "x" * 200, "a b"])
def test_an_id_that_would_break_the_stream_is_left_out(api: Api, client: redis.Redis, ident: str) -> None:
    log(client, ident)
    answer, pieces = stream(api)
    lines = next(pieces).splitlines()
    assert [line for line in lines if line and not line.startswith((b"retry: ", b"data: {"))] == []
    answer.close()


def test_a_comment_is_sent_when_nothing_comes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.05)
    answer, pieces = stream(api)
    assert list(itertools.islice(pieces, 3))[1:] == [b": nothing new\n\n"] * 2
    answer.close()


def test_a_stream_ends_after_its_time_and_when_the_process_stops(api: Api, app: AdminApp, monkeypatch: pytest.MonkeyPatch) -> None:
    _, pieces = stream(api)
    next(pieces)
    app.drain()
    assert list(pieces) == []
    app.plane.stopping = False
    monkeypatch.setattr(events, "LIFETIME", 0.05)
    _, pieces = stream(api)
    assert len(list(pieces)) == 1


def test_a_stream_of_a_token_that_is_revoked_ends(role, app: AdminApp) -> None:
    _, pieces = stream(role("viewer"))
    next(pieces)
    app.plane.tokens.revoke("a-viewer")
    began = time.monotonic()
    assert list(pieces) == []
    assert time.monotonic() - began < 5


def test_a_stream_outlives_a_store_that_is_away(api: Api, server: Server, client: redis.Redis) -> None:
    answer, pieces = stream(api)
    next(pieces)
    server.kill()
    server.start()
    log(client, "after")
    assert ids(next(pieces)) == ["after"]
    answer.close()


def test_streams_are_bounded_and_give_their_places_back(api: Api, app: AdminApp) -> None:
    opened = []
    for _ in range(events.MOST):
        answer, pieces = stream(api)
        next(pieces)
        opened.append(answer)
    refused = api.get("/v1/logs", headers=EVENTS)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert api.get("/v1/logs").status_code == 200
    for answer in opened:
        answer.close()
    assert app.plane.streams == 0
    answer, pieces = stream(api)
    answer.close()


# ---- the audit


def audited(api: Api, **headers: str) -> tuple[TestResponse, Iterator[bytes]]:
    answer = api.get("/v1/audit?count=2", headers={**EVENTS, **headers}, buffered=False)
    assert answer.status_code == 200
    return answer, iter(answer.response)


def actions(piece: bytes) -> list[str]:
    return [json.loads(line[6:])["action"] for line in piece.splitlines() if line.startswith(b"data: ")]


def test_the_audit_comes_as_it_is_written_and_goes_on_where_a_client_was(api: Api, app: AdminApp) -> None:
    for action in "abc":
        app.plane.record("ann", action, "refused", "why\nnot")
    answer, pieces = audited(api)
    first = next(pieces)
    assert actions(first) == ["b", "c"]
    seen = ids(first)
    app.plane.record("ann", "d", "done", "")
    assert actions(next(pieces)) == ["d"]
    answer.close()
    answer, pieces = audited(api, **{"Last-Event-ID": seen[0]})
    assert actions(next(pieces)) == ["c", "d"]
    answer.close()
    for nonsense in ("x", "1-", "99999999999999999999-0"):
        answer, pieces = audited(api, **{"Last-Event-ID": nonsense})
        assert actions(next(pieces)) == ["c", "d"]
        answer.close()
    assert [entry["action"] for entry in api.json("/v1/audit?count=2")["entries"]] == ["c", "d"]


@pytest.mark.parametrize("name", ["viewer", "operator"])
def test_the_audit_is_for_admins_as_a_stream_too(role, name: str) -> None:
    assert role(name).get("/v1/audit", headers=EVENTS).status_code == 403
