"""Who changed what, and who was refused: the audit stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from gwproxy.errors import StoreUnavailable
from gwproxy.store.asking import Asking, text_of

log = logging.getLogger("gwproxy.audit")

#: How many entries stay, about.
KEPT = 10_000

_MOST_DETAIL = 2_000  # characters

Outcome = Literal["done", "refused"]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Something that somebody did, or was not allowed to do.

    :ivar at: ISO 8601, UTC, by the store's clock.
    :ivar action: what was asked for, e.g. ``apply``, ``rollback``, ``token create``.
    :ivar outcome: ``done`` or ``refused``.
    :ivar revision: the one that was made, or was to be based on; None if the action is about none.
    :ivar detail: for people; without secrets.
    """

    at: str
    actor: str
    action: str
    outcome: str
    revision: int | None
    detail: str


class AuditLog(Asking):
    """The stream ``gw:audit``: the newest entries, bounded, written by whoever acts.

    Every method but :meth:`note` raises :class:`~gwproxy.errors.StoreUnavailable` if the store does not answer.
    """

    def record(self, actor: str, action: str, outcome: Outcome, detail: str = "", revision: int | None = None) -> None:
        """Add an entry.

        :param detail: for people, without secrets; beyond 2,000 characters it is cut.
        """
        detail = detail if len(detail) <= _MOST_DETAIL else f"{detail[: _MOST_DETAIL - 1]}…"

        def send() -> None:
            seconds, microseconds = self._client.time()  # the store's: those who write have clocks of their own
            at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds).isoformat(timespec="microseconds")
            fields = {"at": at.replace("+00:00", "Z"), "actor": actor, "action": action, "outcome": outcome}
            fields |= {"revision": "" if revision is None else str(revision), "detail": detail}
            self._client.xadd(self._key("audit"), fields, maxlen=KEPT, approximate=True)

        self._ask(send)

    def note(self, actor: str, action: str, outcome: Outcome, detail: str = "", revision: int | None = None) -> None:
        """Record as :meth:`record` does, or log that it could not be: what was done is done all the same."""
        try:
            self.record(actor, action, outcome, detail, revision)
        except StoreUnavailable as error:
            log.warning("audit_not_recorded actor=%s action=%s outcome=%s reason=%s", actor, action, outcome, error)

    def entries(self, count: int = 100) -> list[AuditEntry]:
        """Return the newest ``count`` entries, newest last."""
        return [entry for _, entry in self.newest(count)]

    def follow(self, count: int = 10, *, interval: float = 0.5, sleep: Callable[[float], object] = time.sleep) -> Iterator[AuditEntry]:
        """Yield the newest ``count`` entries, then each new one, for ever.

        Once it has begun, it waits while the store is away.

        :param interval: seconds between looks.
        :raises StoreUnavailable: the store did not answer the first time.
        """
        tail = AuditTail(self)
        yield from (entry for _, entry in tail.start(count))
        while True:
            sleep(interval)
            try:
                found = tail.poll()
            except StoreUnavailable:
                continue
            yield from (entry for _, entry in found)

    def newest(self, count: int) -> list[tuple[str, AuditEntry]]:
        """Return the newest ``count`` entries with their ids, newest last."""
        if count <= 0:
            return []
        found = self._ask(lambda: self._client.xrevrange(self._key("audit"), count=count))
        return [(text_of(entry_id), _entry(fields)) for entry_id, fields in reversed(found)]

    def since(self, last: str, count: int = 100) -> list[tuple[str, AuditEntry]]:
        """Return the ``count`` entries that came first after the one with the id ``last``, with theirs.

        :param last: two numbers with a hyphen between; whether there is such an entry makes no difference.
        """
        found = self._ask(lambda: self._client.xrange(self._key("audit"), min=f"({last}", count=count))
        return [(text_of(entry_id), _entry(fields)) for entry_id, fields in found]


class AuditTail:
    """What comes to the audit stream after what was seen."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._last = "0-0"

    def start(self, count: int) -> list[tuple[str, AuditEntry]]:
        """Return the newest ``count`` entries with their ids, newest last; what comes after them comes next."""
        found = self._audit.newest(max(count, 1))
        if found:
            self._last = found[-1][0]
        return found if count > 0 else []

    def resume(self, last: str) -> list[tuple[str, AuditEntry]]:
        """Return what came after the entry with the id ``last``, the first hundred of it; the rest comes next."""
        self._last = last
        return self.poll()

    def poll(self) -> list[tuple[str, AuditEntry]]:
        """Return what has come, a hundred entries at most."""
        found = self._audit.since(self._last)
        if found:
            self._last = found[-1][0]
        return found


def _entry(fields: dict[bytes, bytes]) -> AuditEntry:
    at, actor, action, outcome, revision, detail = (
        text_of(fields.get(name, b"")) for name in (b"at", b"actor", b"action", b"outcome", b"revision", b"detail")
    )
    return AuditEntry(at, actor, action, outcome, int(revision) if revision.isascii() and revision.isdecimal() else None, detail)
