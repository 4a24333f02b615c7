"""Server-sent events: what comes, as it comes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import orjson

from gwproxy.admin.answers import Answer, EventStream, Refused
from gwproxy.admin.asked import Count
from gwproxy.admin.endpoints import Call, Table
from gwproxy.admin.told import Entries
from gwproxy.errors import StoreUnavailable
from gwproxy.store.log_tail import LogTail

TABLE = Table()

MOST = 16  # streams at once: each asks the store twice a second
INTERVAL = 0.5  # seconds between two looks for what is new
HEARTBEAT = 15.0  # seconds without an event after which a comment is sent: else neither side notices that the other is gone
LIFETIME = 3600.0  # seconds after which a stream ends; its client comes back and goes on where it was
RESUMED = 10_000  # entries that are looked through for the last one a client has seen

_ID = re.compile(rb"[\x21-\x7e]{1,128}")


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
    if call.plane.streams >= MOST:
        raise Refused(503, f"{MOST} streams are open already", fields=(("Retry-After", "5"),))
    tail = LogTail(store.access_log)
    last = call.request.headers.get("Last-Event-ID", "").encode("latin-1", "replace")
    first = _since(store.access_log, tail, last, count)
    return EventStream(lambda: _follow(call, first, tail.poll))


def _wants_events(call: Call) -> bool:
    """Whether the client asks for events.

    :raises Refused: 406: it takes neither JSON nor events.
    """
    accepted = call.request.accept_mimetypes
    if not accepted or accepted.best_match(["application/json", "text/event-stream"]) is not None:
        return accepted.best_match(["application/json", "text/event-stream"], default="application/json") == "text/event-stream"
    raise Refused(406, "this is JSON, or text/event-stream")


def _since(read: Callable[[int], list[bytes]], tail: LogTail, last: bytes, count: int) -> list[bytes]:
    """Return what to begin with: what came after the entry with the id ``last``, else the newest ``count``."""
    if not _ID.fullmatch(last):
        return tail.start(count)
    entries = tail.start(RESUMED)
    for index in range(len(entries) - 1, -1, -1):
        if last in entries[index] and str(entry_of(entries[index]).get("request_id", "")).encode() == last:
            return entries[index + 1 :]
    return entries[-count:]


def _follow(call: Call, first: Iterable[bytes], poll: Callable[[], list[bytes]]) -> Iterator[bytes]:
    plane, sleep, clock = call.plane, time.sleep, time.monotonic
    plane.streams += 1
    try:
        yield b"retry: 2000\n\n" + b"".join(map(event, first))
        spoken = began = checked = clock()
        while not plane.stopping and clock() - began < LIFETIME:
            sleep(INTERVAL)
            now = clock()
            with suppress(StoreUnavailable):  # it is asked again in a moment
                if now - checked >= 1.0:
                    checked = now
                    if not call.caller.valid():
                        return
                if entries := poll():
                    spoken = now
                    yield b"".join(map(event, entries))
            if now - spoken >= HEARTBEAT:
                spoken = now
                yield b": nothing new\n\n"
    finally:
        plane.streams -= 1
