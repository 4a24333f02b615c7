"""The candidate: a configuration or a deployment beside the live one, which workers build and report on before it is live.

There is at most one. ``gw:candidate`` holds it and what workers have counted under it; ``gw:candidate_last`` how the last one ended.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import orjson
import redis

from gwproxy.errors import GatewayError
from gwproxy.store.asking import Asking, text_of
from gwproxy.store.configuration import ConfigurationStore, Published, Retention, RevisionConflict, digest_of
from gwproxy.store.counters import load_script, sha1
from gwproxy.store.deployments import KEYS as DEPLOYMENT_KEYS
from gwproxy.store.deployments import Change, DeploymentConflict, DeploymentStore, LiveDeployment, deployment_digest, missing

Mode = Literal["stage", "canary"]
#: How a candidate ends: ``committed`` (of a stage) and ``promoted`` (of a canary) are live now.
OUTCOMES = ("committed", "promoted", "aborted", "refused", "superseded")

JUDGED_EVERY = 2.0  # seconds
_KEYS = ("routes", "revision", "history", "candidate", "candidate_last", *DEPLOYMENT_KEYS)


class CandidateBusy(GatewayError):
    """There is another candidate."""


class CandidateGone(GatewayError):
    """The candidate is no more: it has ended, or what it was made from is live no more."""


class CandidateUnreadable(GatewayError):
    """Somebody else has written to the candidate, and it is none any more."""


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to follow, in short.

    :ivar fingerprint: changes whenever the live configuration does; empty if there is none.
    :ivar candidate: the candidate's id; empty if there is none.
    :ivar version: changes with what the candidate is told to be: its share, its rules.
    :ivar void: why the candidate ought to end: ``superseded``, ``expired``; empty: it stands.
    :ivar deployment: changes whenever the live deployment does; empty if there is none.
    :ivar revoked: changes whenever something is revoked; empty if nothing is.
    """

    fingerprint: str
    candidate: str
    version: str
    void: str
    deployment: str
    revoked: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration beside the live one, or the live one with another deployment.

    :ivar data: the configuration; empty where it was not asked for.
    :ivar digest: SHA-256 of it, in hex.
    :ivar base: the revision it was made from, and is only good for.
    :ivar at: when it began, ISO 8601, UTC.
    :ivar share: percent of clients that a canary serves.
    :ivar rules: as the control plane has put them, JSON.
    :ivar counts: what all workers have counted under it, those too that are gone.
    :ivar deployment: that is tried; empty: the live one stays, and a configuration is.
    :ivar deployment_base: the revision of the plugins that it was made from, and is only good for.
    :ivar change: what is to be told of it in the history of the plugins; None if a configuration is tried.
    """

    id: str
    data: bytes
    digest: str
    base: int
    mode: Mode
    actor: str = ""
    comment: str = ""
    at: str = ""
    share: float = 0.0
    rules: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    deployment: bytes = b""
    deployment_base: int = 0
    change: Change | None = None

    @property
    def deployment_digest(self) -> str:
        """SHA-256 of the deployment, in hex; empty if it has no wheels, or a configuration is tried."""
        return deployment_digest(self.deployment)


@dataclass(frozen=True, slots=True)
class Tried:
    """A deployment that is to be tried.

    :ivar base: what it was made from.
    """

    deployment: bytes
    base: LiveDeployment
    change: Change


@dataclass(frozen=True, slots=True)
class Ended:
    """How the last candidate ended.

    :ivar outcome: one of :data:`OUTCOMES`.
    :ivar by: who or what ended it.
    :ivar revision: what it is live as; 0 if it never was.
    :ivar candidate: what it was, without its configuration.
    """

    outcome: str
    reason: str
    by: str
    at: str
    revision: int
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Judgement:
    """It is for the worker that gets this to judge the candidate now; the others' turn is two seconds later.

    :ivar age: seconds since the candidate began.
    :ivar counts: as in :class:`Candidate`.
    """

    age: float
    counts: Mapping[str, int]


class CandidateStore(Asking):
    """The candidate of one gateway in Redis, for workers that build it and for who has put it there.

    Every method raises :class:`~gwproxy.errors.StoreUnavailable` if the store does not answer. Parameters are those of
    :class:`~gwproxy.store.configuration.ConfigurationStore`.
    """

    def __init__(self, client: redis.Redis, prefix: str = "gw:", retention: Retention | None = None) -> None:
        super().__init__(client, prefix)
        retention = retention or Retention()
        self._live = ConfigurationStore(client, prefix, retention)
        self._retention = (retention.revisions, round(retention.days * 86_400_000))
        self._deployments = DeploymentStore(client, prefix)
        below = {"revise": "revisions.lua", "deploy": "deployments.lua"}
        functions = (f"local function {name}(KEYS, ARGV)\n{load_script(file)}\nend\n" for name, file in below.items())
        self._script = "".join(functions) + load_script("candidates.lua")

    @classmethod
    def of(cls, live: ConfigurationStore) -> CandidateStore:
        """Return that of the same gateway, by the same client."""
        made = cls(live._client, live._prefix)
        made._live, made._retention = live, live._retention
        return made

    # ---- for workers

    def look(self) -> Look:
        """Look for changes of the live configuration and of the candidate, in one short reply."""
        return Look(*(part.decode() for part in self._step("look")))

    def read(self, *, data: bool = True) -> Candidate | None:
        """Return the candidate; None if there is none.

        :param data: False leaves the configuration itself where it is.
        :raises CandidateUnreadable: somebody else has written to it.
        """
        reply: list[bytes] = self._step("show")
        if not reply:
            return None
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        if data:
            ident, held = self._ask(lambda: self._client.hmget(self._key("candidate"), "id", "data"))
            if ident is None or ident != fields.get(b"id"):
                return None  # another one by now, which is found at the next look
            fields[b"data"] = held or b""
        return _candidate(fields)

    def report(self, ident: str, worker: str, number: int, counts: Mapping[str, int]) -> Judgement | None:
        """Add to what was counted under the candidate; None: it is for others to judge it.

        :param number: of this report, from 1; one that is told twice counts once.
        :raises CandidateGone: it has ended.
        """
        added = [part for pair in counts.items() for part in pair]
        outcome, *rest = self._step("report", ident, worker, number, int(JUDGED_EVERY * 1000), *added)
        if outcome == b"gone":
            raise CandidateGone("the candidate has ended")
        return Judgement(rest[0] / 1000, _counts(rest[1])) if outcome == b"judge" else None

    def settle(self, ident: str) -> Ended | None:
        """End the candidate if it is void; None if it is not, or somebody else has ended it."""
        void = self.look().void
        if void == "expired":
            outcome, reason = "aborted", "who staged it did not say any more that it is wanted"
        elif void:
            outcome, reason = "superseded", self._what_came()
        else:
            return None
        return self.last() if self._end("settle", ident, outcome, reason, "gateway") is not None else None

    # ---- for who changes the configuration

    def start(
        self,
        data: bytes,
        *,
        mode: Mode,
        base: int,
        actor: str,
        comment: str = "",
        share: float = 0.0,
        rules: str = "",
        lease: float | None = None,
        tried: Tried | None = None,
    ) -> Candidate:
        """Put a configuration beside the live one, or the live one with another deployment.

        :param data: the configuration; with ``tried`` the live one, ``[]`` if there is none.
        :param base: the live revision that it was made from.
        :param lease: seconds until it ends by itself, unless :meth:`renew` is called before; None: it does not.
        :param tried: None: the live deployment stays.
        :raises RevisionConflict: another revision is live.
        :raises DeploymentConflict: another deployment is live than the one of ``tried``.
        :raises CandidateBusy: there is another candidate.
        """
        tells: dict[str, Any] = {"mode": mode, "actor": actor, "comment": comment, "share": share, "rules": rules}
        made = Candidate(secrets.token_hex(8), data, digest_of(data), base, at=self._now(), **tells)
        told = tells | {"data": data, "digest": made.digest, "at": made.at, "share": str(share)}
        behind: tuple[str | int, str | int] = ("", "")
        if tried is not None:
            made = replace(made, deployment=tried.deployment, change=tried.change)
            told |= {"deployment": tried.deployment, "action": tried.change.action}
            told |= {"distribution": tried.change.distribution, "wheel_version": tried.change.version}
            behind = (sha1(tried.base.data) if tried.base.data else "", tried.base.revision)
        pairs = [part for pair in told.items() for part in pair]
        for _ in range(10):
            live = self._live.latest().data or b""
            if live and self._live.note_external(live, digest_of(live)) not in (0, base):
                raise self._conflict()
            nothing = tried is not None and not live  # plugins may come before the configuration that uses them
            arguments = (made.id, "" if nothing else sha1(live), base, _lease(lease), self._key("reload"), *behind)
            outcome, *rest = self._step("start", *arguments, *pairs)
            if outcome == b"done":
                return replace(made, deployment_base=int(rest[0]))
            if outcome == b"busy":
                _, other, by, at = (text_of(part) if part else "?" for part in rest)
                raise CandidateBusy(f"there is a candidate already: a {other} by {by}, since {at}")
            if outcome == b"redeployed":
                raise self._redeployed()
        raise self._conflict()

    def renew(self, ident: str, lease: float) -> None:
        """Say that the candidate is wanted for ``lease`` more seconds.

        :raises CandidateGone: it has ended.
        """
        if self._step("renew", ident, _lease(lease))[0] != b"done":
            raise CandidateGone("the candidate has ended")

    def change(self, ident: str, *, share: float, rules: str) -> None:
        """Give a canary another share and other rules.

        :raises CandidateGone: it has ended.
        """
        if self._step("change", ident, self._key("reload"), "share", str(share), "rules", rules)[0] != b"done":
            raise CandidateGone("the candidate has ended")

    def publish(self, ident: str, outcome: str, reason: str, *, by: str, actor: str = "") -> Published:
        """Make the candidate live, as a new revision of the configuration or of the plugins, and end it: one step.

        :param outcome: ``committed`` or ``promoted``.
        :param by: who or what ends it.
        :param actor: whose the revision is; empty: that of ``by``.
        :raises CandidateGone: it has ended, or what it was made from is live no more.
        :raises WheelMissing: a wheel of the deployment is not in the store any more.
        """
        held = self.read(data=False)
        if held is None or held.id != ident:
            raise CandidateGone("the candidate has ended")
        keys: tuple[str, ...] = ()
        arguments: tuple[str | int, ...]
        if held.change is None:
            digest = held.digest
            arguments = (digest, actor or by, held.comment, held.base, *self._retention, self._key("reload"))
        else:
            digest = held.deployment_digest
            keys, arguments = self._deployments.step(held.deployment, held.change, self._deployments.live(), actor or by, held.comment)
        revision = self._end("publish", ident, outcome, reason, by, *arguments, wheels=keys)
        if revision is None:
            raise CandidateGone("the candidate has ended, or what it was made from is live no more")
        return Published(revision, digest)

    def finish(self, ident: str, outcome: str, reason: str, *, by: str) -> bool:
        """End the candidate; False if it has ended before: of many callers, one does it."""
        return self._end("finish", ident, outcome, reason, by) is not None

    def last(self) -> Ended | None:
        """Return how the last candidate ended; None if that is not known."""
        reply = self._step("last")
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        return _ended(fields) if fields else None

    # ---- below

    def _end(
        self, step: str, ident: str, outcome: str, reason: str, by: str, *arguments: str | bytes | int, wheels: tuple[str, ...] = ()
    ) -> int | None:
        """Return the revision that it is live as, 0 if it is not; None: it had ended."""
        told = (ident, self._key("reload"), outcome, reason, by, self._now(), *arguments)
        reply = self._step(step, *told, wheels=wheels)
        if reply[0] == b"missing":
            raise missing(reply[1])
        return int(reply[1] or 0) if reply[0] == b"done" else None

    def _what_came(self) -> str:
        latest = self._live.latest()
        if latest.data is None:
            return f"{self._key('routes')} is missing or empty"
        if latest.revision is None:
            self._live.note_external(latest.data, digest_of(latest.data))
        held, deployed = self.read(data=False), next(self._deployments.walk(), None)
        if held is not None and deployed is not None and deployed.revision != held.deployment_base:
            return f"the plugins are at revision {deployed.revision} now, by {deployed.actor}"
        newest = next(iter(self._live.history(1)), None)
        return f"the live configuration is revision {newest.revision} now, by {newest.actor}" if newest else "another configuration is live"

    def _conflict(self) -> RevisionConflict:
        newest = next(iter(self._live.history(1)), None)
        return RevisionConflict(newest.revision, newest.actor, newest.at) if newest else RevisionConflict(0, "", "")

    def _redeployed(self) -> DeploymentConflict:
        newest = next(self._deployments.walk(), None)
        return DeploymentConflict(self._deployments.live().revision, newest.actor if newest else "", newest.at if newest else "")

    def _step(self, name: str, *arguments: str | bytes | int, wheels: tuple[str, ...] = ()) -> Any:
        return self._evaluate(self._script, (*_KEYS, *wheels), name, *arguments)


def _lease(seconds: float | None) -> str:
    return "" if seconds is None else str(int(seconds * 1000))


def _counts(flat: Sequence[bytes]) -> dict[str, int]:
    """Return counters by name, without the ``n:`` that they have in the hash."""
    return {name.decode()[2:]: int(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _text(fields: Mapping[bytes, bytes], name: str) -> str:
    return text_of(fields.get(name.encode(), b""))


def _candidate(fields: Mapping[bytes, bytes]) -> Candidate:
    """Make a candidate of what the store holds.

    :raises CandidateUnreadable: somebody else has written it.
    """
    texts = {name: _text(fields, name) for name in ("id", "digest", "actor", "comment", "at", "rules")}
    try:
        counts = {name.decode()[2:]: int(value) for name, value in fields.items() if name.startswith(b"n:")}
        base, share = int(_text(fields, "base") or 0), float(_text(fields, "share") or 0)
        deployment_base = int(_text(fields, "plugins_base") or 0)
    except ValueError:
        raise CandidateUnreadable("the candidate in the store is none of gwproxy's; deleting the key removes it") from None
    deployment = fields.get(b"deployment", b"")
    change = Change(*(_text(fields, name) for name in ("action", "distribution", "wheel_version"))) if deployment else None
    return Candidate(
        data=fields.get(b"data", b""),
        base=base,
        mode=cast("Mode", _text(fields, "mode")),
        share=share,
        counts=counts,
        deployment=deployment,
        deployment_base=deployment_base,
        change=change,
        **texts,
    )


def _ended(fields: dict[bytes, bytes]) -> Ended:
    texts = {name: _text(fields, name) for name in ("outcome", "reason", "by", "at")}
    counts = {f"n:{name}".encode(): str(count).encode() for name, count in orjson.loads(fields.get(b"numbers", b"{}")).items()}
    candidate = _candidate({**fields, **counts, b"at": fields.get(b"started", b"")})
    return Ended(revision=int(_text(fields, "revision") or 0), candidate=candidate, **texts)
