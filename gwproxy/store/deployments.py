"""What was pushed: the wheels, the deployment that names those that are live, its history, what is revoked.

A wheel is kept while the live deployment or one of its newest twenty changes names it, else for seven days.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from gwproxy.errors import GatewayError
from gwproxy.store.asking import Asking, text_of
from gwproxy.store.configuration import digest_of
from gwproxy.store.counters import load_script, sha1

NAMED = 20  # changes, the newest, whose wheels are kept; in deployments.lua, too
_PAGE = 50  # changes a round trip

KEYS = ("plugins", "plugins_revision", "plugins_history", "plugins_revoked")


class DeploymentConflict(GatewayError):
    """Somebody else changed the deployment first; nothing was changed.

    :ivar revision: of the one that is live.
    """

    def __init__(self, revision: int, actor: str, at: str) -> None:
        super().__init__(f"the plugins are at revision {revision} now, by {actor or 'unknown'} at {at or 'an unknown time'}")
        self.revision = revision


class WheelMissing(GatewayError):
    """A wheel that a deployment names is not in the store."""


@dataclass(frozen=True, slots=True)
class LiveDeployment:
    """What ``gw:plugins`` and ``gw:plugins_revision`` held at one moment.

    :ivar data: empty if there is none.
    :ivar revision: 0 if there never was one.
    """

    data: bytes
    revision: int

    @property
    def digest(self) -> str:
        """SHA-256 of it, in hex; empty if no wheel is deployed."""
        return deployment_digest(self.data)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the deployment, as its history tells of it.

    :ivar action: ``push``, ``rollback``, ``remove`` or ``revoke``; ``set``: somebody has written the key.
    :ivar distribution: that it is about; empty if it is about several.
    :ivar version: of it, after the change; empty if it is there no more.
    """

    action: str
    distribution: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class PastDeployment:
    """An entry of the history.

    :ivar deployment: what was live from then on.
    :ivar at: ISO 8601, UTC.
    """

    revision: int
    change: Change
    deployment: bytes = field(repr=False)
    at: str
    actor: str
    comment: str


@dataclass(frozen=True, slots=True)
class StoredWheel:
    """A wheel as it was put into the store; nothing here has been verified.

    :ivar signature: the text of its ``.minisig``.
    :ivar at: when it was put there, ISO 8601, UTC.
    """

    sha256: str
    data: bytes = field(repr=False)
    signature: str = field(repr=False)
    distribution: str
    version: str
    at: str
    actor: str


@dataclass(frozen=True, slots=True)
class Revocation:
    """Why a wheel or a key is not good any more."""

    reason: str
    actor: str
    at: str


class DeploymentStore(Asking):
    """The pushed wheels of one gateway in Redis, for workers that load them and commands that change them.

    Every method raises :class:`~gwproxy.errors.StoreUnavailable` if the store does not answer. A deployment that is to be
    tried by all workers before it is live goes through :class:`~gwproxy.store.candidates.CandidateStore`.

    :param client: of :func:`~gwproxy.store.connection.connect`, with a timeout (2 s, say) that fits the largest wheel; not
        the one of the request path.
    :param prefix: of every key, with its colon.
    """

    # ---- for workers

    def live(self) -> LiveDeployment:
        """Read the live deployment and its revision, both of one moment."""
        _, revision, data = self._run((), "look")
        return LiveDeployment(data, int(revision))

    def wheel(self, sha256: str) -> StoredWheel | None:
        """Return a wheel; None if it is not there, or what is there is none."""
        names = ("data", "signature", "distribution", "version", "at", "actor")
        data, *texts = self._ask(lambda: self._client.hmget(self._key(f"wheel:{sha256}"), *names))
        return None if data is None else StoredWheel(sha256, data, *(text_of(text or b"") for text in texts))

    def revoked(self) -> dict[str, Revocation]:
        """Return what is revoked: by the SHA-256 of a wheel, or the id of a key."""
        found = self._ask(lambda: self._client.hgetall(self._key("plugins_revoked")))
        return {text_of(name): _revocation(said) for name, said in found.items()}

    # ---- for who changes what is live

    def put_wheel(self, data: bytes, signature: str, *, distribution: str, version: str, actor: str) -> str:
        """Put a wheel into the store, and return its SHA-256; one that is there gets the new signature."""
        sha256 = digest_of(data)
        told: dict[str, str | bytes] = {"data": data, "signature": signature, "distribution": distribution, "version": version}
        told |= {"at": self._now(), "actor": actor}
        self._run((f"wheel:{sha256}",), "put", *(part for pair in told.items() for part in pair))
        return sha256

    def publish(self, data: bytes, change: Change, *, base: LiveDeployment, actor: str, comment: str = "") -> LiveDeployment:
        """Make a deployment live without asking the workers, and tell them.

        :param base: what it was made from.
        :raises DeploymentConflict: another one is live.
        :raises WheelMissing: a wheel of it is not in the store any more.
        """
        keys, told = self.step(data, change, base, actor, comment)
        return LiveDeployment(data, _revision(self._run(keys, "publish", data, *told)))

    def revoke(
        self, names: Sequence[str], reason: str, *, actor: str, without: bytes, base: LiveDeployment, about: Change
    ) -> LiveDeployment:
        """Revoke wheels or keys, for ever; and in the same step make a deployment live that does without them.

        :param names: the SHA-256 of a wheel, or the id of a key.
        :param without: the deployment; empty: what is live need not change.
        :param base: what it was made from.
        :param about: for the history, if the deployment changes.
        :return: what is live now.
        :raises DeploymentConflict: another deployment is live; nothing was revoked.
        """
        said = orjson.dumps({"reason": reason, "actor": actor, "at": self._now()})
        keys, told = self.step(without, about, base, actor, reason)
        revision = _revision(self._run(keys, "revoke", without, *told, said, *names))
        return LiveDeployment(without, revision) if without else base

    def history(self, count: int | None = None) -> list[PastDeployment]:
        """Return the newest ``count`` changes, newest first; None: all that are kept."""
        found: list[PastDeployment] = []
        for past in self.walk():
            if count is not None and len(found) >= count:
                break
            found.append(past)
        return found

    def walk(self) -> Iterator[PastDeployment]:
        """Yield every change, newest first, reading some at a time."""
        last = "+"
        while True:
            entries = self._ask(partial(self._client.xrevrange, self._key("plugins_history"), max=last, count=_PAGE))
            yield from (past for _, fields in entries if (past := _past(fields)) is not None)
            if len(entries) < _PAGE:
                return
            last = "(" + entries[-1][0].decode()

    def step(
        self, data: bytes, change: Change, base: LiveDeployment, actor: str, comment: str
    ) -> tuple[tuple[str, ...], tuple[str | int, ...]]:
        """Return the keys of wheels, and what deployments.lua's publish takes after the deployment."""
        needed = named(data)
        keys = tuple(dict.fromkeys(f"wheel:{sha256}" for sha256 in (*needed, *sorted(self._named()))))
        told = (change.action, change.distribution, change.version, actor, comment, self._now(), base.revision)
        return keys, (*told, sha1(base.data) if base.data else "", len(needed), self._key("reload"))

    # ---- below

    def _named(self) -> set[str]:
        """Return every wheel that the live deployment names, or a change that keeps its wheels, or one that does so no more."""
        texts = [self.live().data, *(past.deployment for past in self.history(NAMED + 1))]
        return {sha256 for text in texts for sha256 in named(text)}

    def _run(self, wheels: tuple[str, ...], *arguments: str | bytes | int) -> Any:
        return self._evaluate(load_script("deployments.lua"), (*KEYS, *wheels), *arguments)


def deployment_digest(deployment: bytes) -> str:
    """Return what identifies a deployment: the SHA-256 of its bytes, in hex; empty if it names no wheel."""
    return digest_of(deployment) if named(deployment) else ""


def named(deployment: bytes) -> list[str]:
    """Return the SHA-256 of each wheel that a deployment names."""
    return [sha256.decode() for sha256 in dict.fromkeys(re.findall(rb"\b[0-9a-f]{64}\b", deployment))]


def missing(sha256: bytes) -> WheelMissing:
    """Return the error that names a wheel by its digest."""
    return WheelMissing(f"the wheel with the digest {text_of(sha256)} is not in the store any more; push it again")


def _revision(reply: Sequence[Any]) -> int:
    """Return the revision that a step of deployments.lua has made.

    :raises DeploymentConflict: another deployment is live.
    :raises WheelMissing: a wheel is not in the store any more.
    """
    if reply[0] == b"conflict":
        raise DeploymentConflict(int(reply[1]), text_of(reply[2]), text_of(reply[3]))
    if reply[0] == b"missing":
        raise missing(reply[1])
    return int(reply[1])


def _past(fields: Mapping[bytes, bytes]) -> PastDeployment | None:
    """Return an entry of the history; None for what is none of ours."""
    number = fields.get(b"revision", b"")
    if not re.fullmatch(rb"\d{1,15}", number) or b"deployment" not in fields:
        return None
    action, distribution, version, at, actor, comment = (
        text_of(fields.get(name, b"")) for name in (b"action", b"distribution", b"version", b"at", b"actor", b"comment")
    )
    return PastDeployment(int(number), Change(action, distribution, version), fields[b"deployment"], at, actor, comment)


def _revocation(said: bytes) -> Revocation:
    """Read one; whatever it is, what it is about is revoked."""
    try:
        found = orjson.loads(said)
        return Revocation(str(found.get("reason", "")), str(found.get("actor", "")), str(found.get("at", "")))
    except (orjson.JSONDecodeError, AttributeError):
        return Revocation(text_of(said), "", "")
