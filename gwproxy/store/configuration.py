"""What control planes keep in the store: the live configuration, its revisions, the heartbeats of the workers."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis

from gwproxy.errors import CommandFailed, GatewayError, StoreUnavailable
from gwproxy.store.asking import Asking, text_of
from gwproxy.store.audit import KEPT
from gwproxy.store.counters import load_script, sha1
from gwproxy.store.log_tail import LogTail
from gwproxy.store.subscription import Subscription

HEARTBEAT_TTL = 10  # seconds
DEPARTED_TTL = 600  # seconds; whoever waits for a worker looks several times a second
_PAGE = 20  # revisions a round trip: each carries a whole configuration
_FINGERPRINT = "local v = redis.call('GET', KEYS[1]) if not v or v == '' then return false end return redis.sha1hex(v)"


class RevisionConflict(GatewayError):
    """Somebody else changed the configuration first.

    :ivar revision: the current one.
    :ivar actor: who made it.
    :ivar at: when, ISO 8601, UTC.
    """

    def __init__(self, revision: int, actor: str, at: str) -> None:
        super().__init__(f"the configuration is at revision {revision} now, by {actor or 'unknown'} at {at or 'an unknown time'}")
        self.revision = revision
        self.actor = actor
        self.at = at


@dataclass(frozen=True, slots=True)
class Live:
    """What ``gw:routes`` and ``gw:revision`` held at one moment.

    :ivar data: None if there is no configuration: the key is missing or empty.
    :ivar revision: the counter; 0 if there is none. After a bare ``SET`` it is not yet that of ``data``.
    """

    data: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Latest:
    """What is live, and which revision it is, both of one moment.

    :ivar data: None if there is no configuration.
    :ivar revision: of ``data``; without data the newest that there was, 0 if there was none. None: ``data`` was ``SET`` by
        somebody and has no revision yet.
    """

    data: bytes | None
    revision: int | None


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of the history is kept; applied by every change, and by whoever notes one. The newest entry always stays.

    :ivar revisions: how many at most, the live one included; 1 or more.
    :ivar days: how old they may be, at most; 0: any age.
    """

    revisions: int = 1000
    days: float = 0.0


@dataclass(frozen=True, slots=True)
class Published:
    """A configuration that is live now."""

    revision: int
    digest: str


@dataclass(frozen=True, slots=True)
class Revision:
    """An entry of the history.

    :ivar digest: SHA-256 of ``configuration``, in hex.
    :ivar at: ISO 8601, UTC.
    :ivar actor: who made it; ``external`` for a bare ``SET``.
    """

    revision: int
    digest: str
    at: str
    actor: str
    comment: str
    configuration: bytes


def digest_of(data: bytes) -> str:
    """Return what identifies a configuration: the SHA-256 of its bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


class ConfigurationStore(Asking):
    """The configuration of one gateway in Redis, for workers that read it and commands that change it.

    Every method raises :class:`~gwproxy.errors.StoreUnavailable` if the store does not answer, with a message fit for
    the log.

    :param client: of :func:`~gwproxy.store.connection.connect`, with a timeout (2 s, say) that fits the largest
        configuration; not the one of the request path.
    :param prefix: of every key, with its colon.
    :param retention: how much of the history this process keeps when it adds to it.
    """

    def __init__(self, client: redis.Redis, prefix: str = "gw:", retention: Retention = Retention()) -> None:
        super().__init__(client, prefix)
        self._revisions = load_script("revisions.lua")
        self._retention = (retention.revisions, round(retention.days * 86_400_000))

    # ---- the live configuration

    def read(self) -> Live:
        """Read configuration and counter, both of one moment."""
        data, revision = self._ask(lambda: self._client.mget(self._key("routes"), self._key("revision")))
        return Live(data or None, int(revision) if revision and re.fullmatch(rb"\d{1,15}", revision) else 0)

    def fingerprint(self) -> str | None:
        """Return what changes whenever the configuration does, whoever wrote it; None if there is none.

        Costs one short reply, whatever the configuration's size.
        """
        reply = self._evaluate(_FINGERPRINT, ("routes",))
        return reply.decode() if reply else None

    def latest(self) -> Latest:
        """Read the live configuration and which revision it is."""
        _, revision, noted, data = self._run("look")
        return Latest(data or None, int(revision) if noted else None)

    def publish(self, data: bytes, *, actor: str, comment: str = "", expected_revision: int | None = None) -> Published:
        """Make ``data`` live, as a new revision, and tell the workers.

        A configuration that somebody had ``SET`` without a revision gets one first, so that it is not lost.

        :param expected_revision: the one that ``data`` was made from; None overwrites whatever is there.
        :raises RevisionConflict: the current revision is another one; nothing was changed.
        """
        published = self._publish("publish", data, actor, comment, expected_revision)
        assert published is not None, "only a seed can find a configuration present"  # noqa: S101
        return published

    def seed(self, data: bytes, actor: str) -> Published | None:
        """Publish ``data`` if there is no configuration; None if there is one. Of many callers, one publishes."""
        return self._publish("seed", data, actor, "", None)

    def note_external(self, data: bytes, digest: str) -> int:
        """Return the revision of ``data``, which was read from the store; a bare ``SET`` gets the next one.

        However many workers call this for one change, it is recorded once, in the history and in the audit stream.
        0: the store has moved on, and ``data`` was never recorded; read again.

        :param digest: SHA-256 of ``data``, in hex.
        """
        reply = self._run("note", sha1(data), digest, *self._retention, KEPT)
        return int(reply[1]) if reply[0] == b"done" else 0

    # ---- the history

    def history(self, count: int | None = None) -> list[Revision]:
        """Return the newest ``count`` revisions, newest first; None: all."""
        found: list[Revision] = []
        for revision in self.walk():
            if count is not None and len(found) >= count:
                break
            found.append(revision)
        return found

    def revision(self, number: int) -> Revision | None:
        """Return revision ``number``; None if the history has none."""
        for revision in self.walk():
            if revision.revision <= number:
                return revision if revision.revision == number else None
        return None

    def walk(self) -> Iterator[Revision]:
        """Yield every revision, newest first, reading some at a time."""
        last = "+"
        while True:
            entries = self._ask(partial(self._client.xrevrange, self._key("history"), max=last, count=_PAGE))
            for _, fields in entries:
                revision = _revision(fields)
                if revision is not None:
                    yield revision
            if len(entries) < _PAGE:
                return
            last = "(" + entries[-1][0].decode()

    # ---- the workers

    def heartbeat(self, worker_id: str, fields: Mapping[str, str]) -> None:
        """Say that a worker lives and what it runs; forgotten after 10 seconds."""
        key = self._key(f"worker:{worker_id}")

        def send() -> None:
            pipeline = self._client.pipeline(transaction=True)  # never a key without a lifetime
            pipeline.delete(key)
            pipeline.hset(key, mapping=dict(fields))
            pipeline.expire(key, HEARTBEAT_TTL)
            pipeline.execute()

        self._ask(send)

    def workers(self) -> list[dict[str, str]]:
        """Return the heartbeats of all live workers, by id, each with its ``id``."""
        start = self._key("worker:")
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", start) + "*"
        keys = self._ask(lambda: sorted(set(self._client.scan_iter(match=pattern, count=1000))))
        return self.heartbeats(text_of(key)[len(start) :] for key in keys)

    def heartbeats(self, ids: Iterable[str]) -> list[dict[str, str]]:
        """Return the heartbeats of these workers, as far as they live; costs one round trip, however many keys there are."""
        ids = list(ids)

        def send() -> Any:
            pipeline = self._client.pipeline(transaction=False)
            for worker_id in ids:
                pipeline.hgetall(self._key(f"worker:{worker_id}"))
            return pipeline.execute()

        found = zip(ids, self._ask(send), strict=True)
        # One without fields has expired meanwhile.
        return [{"id": i} | {text_of(name): text_of(value) for name, value in fields.items()} for i, fields in found if fields]

    def forget(self, *worker_ids: str) -> None:
        """Remove heartbeats of workers that are no more, and keep for ten minutes that this is known of them."""

        def send() -> None:
            pipeline = self._client.pipeline(transaction=True)  # who looks sees one or the other
            for worker_id in worker_ids:
                pipeline.delete(self._key(f"worker:{worker_id}"))
                pipeline.set(self._key(f"departed:{worker_id}"), "1", ex=DEPARTED_TTL)
            pipeline.execute()

        if worker_ids:
            self._ask(send)

    def departed(self, ids: Iterable[str]) -> set[str]:
        """Return which of these workers are known to be no more. Of others without a heartbeat nobody knows."""
        ids = list(ids)

        def send() -> Any:
            pipeline = self._client.pipeline(transaction=False)
            for worker_id in ids:
                pipeline.exists(self._key(f"departed:{worker_id}"))
            return pipeline.execute()

        return {worker_id for worker_id, known in zip(ids, self._ask(send), strict=True) if known} if ids else set()

    def subscribe(self, *, ping_every: float = 3.0, patience: float = 2.0) -> Subscription:
        """Return what hears of changes; it connects when it is first waited on."""
        return Subscription(self._client, self._key("reload"), ping_every=ping_every, patience=patience)

    # ---- logs

    def access_log(self, count: int = 100) -> list[bytes]:
        """Return the newest ``count`` entries of the access log, newest last."""
        if count <= 0:
            return []
        return list(self._ask(lambda: self._client.lrange(self._key("access_log"), -count, -1)))

    def follow(self, count: int = 10, *, interval: float = 0.5, sleep: Callable[[float], object] = time.sleep) -> Iterator[bytes]:
        """Yield the newest ``count`` entries of the access log, then each new one, for ever.

        Once it has begun, it waits while the store is away.

        :param interval: seconds between looks.
        :raises StoreUnavailable: the store did not answer the first time.
        """
        tail = LogTail(self.access_log)
        yield from tail.start(count)
        while True:
            sleep(interval)
            try:
                entries = tail.poll()
            except StoreUnavailable:
                continue
            yield from entries

    # ---- below

    def _publish(self, how: str, data: bytes, actor: str, comment: str, expected: int | None) -> Published | None:
        if not data:
            raise CommandFailed("an empty configuration cannot be published; one without routes is []")
        digest = digest_of(data)
        arguments = (data, digest, actor, comment, "" if expected is None else expected, *self._retention, self._key("reload"))
        for _ in range(10):
            outcome, *rest = self._run(how, *arguments)
            if outcome == b"done":
                return Published(int(rest[0]), digest)
            if outcome == b"conflict":
                raise RevisionConflict(int(rest[0]), text_of(rest[1]), text_of(rest[2]))
            if outcome == b"present":
                return None
            self.note_external(rest[0], digest_of(rest[0]))
        raise StoreUnavailable(f"{self._key('routes')} is being overwritten all the time by somebody else")

    def _run(self, *arguments: str | bytes | int) -> list[Any]:
        reply: list[Any] = self._evaluate(self._revisions, ("routes", "revision", "history", "audit"), *arguments)
        return reply


def _revision(fields: dict[bytes, bytes]) -> Revision | None:
    """Return an entry of the history; None for what is none of ours."""
    number = fields.get(b"revision", b"")
    if not re.fullmatch(rb"\d{1,15}", number) or b"configuration" not in fields:
        return None
    digest, at, actor, comment = (text_of(fields.get(name, b"")) for name in (b"digest", b"at", b"actor", b"comment"))
    return Revision(int(number), digest, at, actor, comment, fields[b"configuration"])
