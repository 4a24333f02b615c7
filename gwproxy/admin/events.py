"""Server-sent events: what comes, as it comes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import orjson

from gwproxy.admin.answers import Answer, EventStream, Refused
from gwproxy.admin.asked import Count
from gwproxy.admin.endpoints import Call, Table
from gwproxy.admin.told import AuditEntries, Entries
from gwproxy.errors import StoreUnavailable
from gwproxy.store.audit import AuditEntry, AuditTail
from gwproxy.store.log_tail import LogTail

TABLE = Table()

MOST = 16  # streams at once: each asks the store twice a second
INTERVAL = 0.5  # seconds between two looks for what is new
HEARTBEAT = 15.0  # seconds without an event after which a comment is sent: else neither side notices that the other is gone
LIFETIME = 3600.0  # seconds after which a stream ends; its client comes back and goes on where it was
RESUMED = 10_000  # entries that are looked through for the last one a client has seen

_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_STREAM_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")


def entry_of(data: bytes) -> dict[str, Any]:
    """Return an entry of the access log; one that is malformed as ``{"malformed": "..."}``."""
    with suppress(orjson.JSONDecodeError):
        held = orjson.loads(data)
        if isinstance(held, dict):
            return held
    return {"malformed": data.decode("utf-8", "backslashreplace")}


def event(data: bytes) -> bytes:
    """Return an entry as an event, with its request's id for clients that come back."""
    held = entry_of(data)
    ident = str(held.get("request_id", "")).encode()
    head = b"id: " + ident + b"\n" if _ID.fullmatch(ident) else b""
    return head + b"data: " + orjson.dumps(held) + b"\n\n"


@TABLE.add("GET", "/v1/logs", role="viewer", answer=Entries, query=Count, events=True, refusals=(406,))
def read_logs(call: Call) -> Answer | EventStream:
    """Return access log entries, newest last; with `Accept: text/event-stream` go on with new ones.

    Entries are there for routes with the `access_log` plugin and its sink `redis`. An event's id is that of its request: a client that
    comes back with `Last-Event-ID` gets what came since, as long as that entry is among the 10,000 that the store keeps; otherwise the
    newest `count`. A comment is sent every 15 seconds without events, and a stream ends after an hour.
    """
    store, count = call.plane.store, call.query.count
    if not _wants_events(call):
        return Answer({"entries": [entry_of(entry) for entry in store.access_log(count)]})
    tail = LogTail(store.access_log)
    last = call.request.headers.get("Last-Event-ID", "").encode("latin-1", "replace")
    first = _since(store.access_log, tail, last, count)
    return EventStream(lambda: _follow(call, map(event, first), lambda: map(event, tail.poll())))


@TABLE.add("GET", "/v1/audit", role="admin", answer=AuditEntries, query=Count, events=True, refusals=(406,))
def read_audit(call: Call) -> Answer | EventStream:
    """Return who changed what and who was refused, newest last; with `Accept: text/event-stream` go on with what comes.

    A client that comes back with `Last-Event-ID` gets what came since, as far as the store keeps it. A comment is sent every 15 seconds
    without events, and a stream ends after an hour.
    """
    audit, count = call.plane.audit, call.query.count
    if not _wants_events(call):
        return Answer({"entries": [asdict(entry) for entry in audit.entries(count)]})
    tail = AuditTail(audit)
    last = call.request.headers.get("Last-Event-ID", "")
    first = tail.resume(last) if _STREAM_ID.fullmatch(last) else tail.start(count)
    return EventStream(lambda: _follow(call, map(_audited, first), lambda: map(_audited, tail.poll())))


def _audited(found: tuple[str, AuditEntry]) -> bytes:
    ident, entry = found
    return b"id: " + ident.encode() + b"\ndata: " + orjson.dumps(asdict(entry)) + b"\n\n"


def _wants_events(call: Call) -> bool:
    """Whether the client asks for events, for which there is room.

    :raises Refused: 406: it takes neither JSON nor events; 503: too many streams are open.
    """
    accepted = call.request.accept_mimetypes
    if accepted and accepted.best_match(["application/json", "text/event-stream"]) is None:
        raise Refused(406, "this is JSON, or text/event-stream")
    wanted = accepted.best_match(["application/json", "text/event-stream"], default="application/json") == "text/event-stream"
    if wanted and call.plane.streams >= MOST:
        raise Refused(503, f"{MOST} streams are open already", fields=(("Retry-After", "5"),))
    return wanted


def _since(read: Callable[[int], list[bytes]], tail: LogTail, last: bytes, count: int) -> list[bytes]:
    """Return what to begin with: what came after the entry with the id ``last``, else the newest ``count``."""
    if not _ID.fullmatch(last):
        return tail.start(count)
    entries = tail.start(RESUMED)
    for index in range(len(entries) - 1, -1, -1):
        if last in entries[index] and str(entry_of(entries[index]).get("request_id", "")).encode() == last:
            return entries[index + 1 :]
    return entries[-count:]


def _follow(call: Call, first: Iterable[bytes], poll: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    """Send events.

    :param poll: returns those that have come since it was called last.
    """
    plane, sleep, clock = call.plane, time.sleep, time.monotonic
    plane.streams += 1
    try:
        yield b"retry: 2000\n\n" + b"".join(first)
        spoken = began = checked = clock()
        while not plane.stopping and clock() - began < LIFETIME:
            sleep(INTERVAL)
            now = clock()
            with suppress(StoreUnavailable):  # it is asked again in a moment
                if now - checked >= 1.0:
                    checked = now
                    if not call.caller.valid():
                        return
                if come := b"".join(poll()):
                    spoken = now
                    yield come
            if now - spoken >= HEARTBEAT:
                spoken = now
                yield b": nothing new\n\n"
    finally:
        plane.streams -= 1
