"""What people do with a candidate: stage it and commit it, try it as a canary, promote or abort that, ask how it is.

Nothing here prints, and nothing knows who asks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gwproxy.controlplane.roster import LOOK_EVERY, SILENCE, SILENT, STOPPED, Roster, Worker
from gwproxy.controlplane.rules import Rules
from gwproxy.controlplane.sides import CANDIDATE, LIVE, Numbers
from gwproxy.errors import CommandFailed, StoreUnavailable
from gwproxy.store.audit import AuditLog, Outcome
from gwproxy.store.candidates import Candidate, CandidateGone, CandidateStore, Ended, Tried
from gwproxy.store.configuration import ConfigurationStore, Published, digest_of
from gwproxy.store.deployments import deployment_digest

log = logging.getLogger("gwproxy.candidates")

LEASE = 10.0  # seconds that a stage outlives its owner

#: ``waiting``: it has not seen the candidate yet; the others as a worker's heartbeat says.
State = Literal["waiting", "building", "built", "refused"]


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What one worker makes of the candidate.

    :ivar reason: why it refuses it, or does not answer; empty if it does.
    :ivar build_ms: None until it has built it.
    """

    id: str
    host: str
    pid: str
    state: State
    reason: str
    build_ms: float | None

    @classmethod
    def of(cls, worker: Worker, candidate: Candidate) -> Acknowledgement:
        """Read it from a heartbeat; one that speaks of another candidate has not seen this one."""
        try:
            said = orjson.loads(worker.get("candidate") or "{}")
        except orjson.JSONDecodeError:
            said = {}
        if not isinstance(said, dict) or said.get("id") != candidate.id or said.get("state") not in ("building", "built", "refused"):
            said = {"state": "waiting"}
        build = said.get("build_ms")
        state, reason, took = said["state"], str(said.get("error", "")), float(build) if isinstance(build, (int, float)) else None
        if worker.get("state") == SILENT and state != "refused":
            state, reason = "waiting", SILENCE  # what it has built, it may never serve
        if candidate.change is not None and "deployment" not in worker:
            state, reason = "refused", "its version of gwproxy knows no pushed plugins"
        return cls(worker["id"], worker.get("host", ""), worker.get("pid", ""), state, reason, took)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        found = {name: getattr(self, name) for name in ("id", "host", "state", "reason", "build_ms")}
        return found | {"pid": int(self.pid) if self.pid.isdecimal() else None}

    def __str__(self) -> str:
        told = {"refused": "refuses it", "built": "has built it"}.get(self.state, "has not built it")
        return f"{self.host}/{self.pid} {told}{f': {self.reason}' if self.reason else ''}"


class NotStaged(CommandFailed):
    """A candidate that not every worker could build.

    :ivar workers: all of them, with what they made of it.
    :ivar withdrawn: whether it has ended, so that nothing was changed; False: it is a canary that was there before.
    """

    def __init__(self, message: str, workers: Sequence[Acknowledgement]) -> None:
        super().__init__(message)
        self.workers = tuple(workers)
        self.withdrawn = True


@dataclass(frozen=True, slots=True)
class Status:
    """How the candidate is, or how the last one ended.

    :ivar candidate: None if there is none.
    :ivar workers: what each live worker makes of it; empty if there is none.
    :ivar last: None if it is not known.
    """

    candidate: Candidate | None
    workers: tuple[Acknowledgement, ...]
    last: Ended | None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON's types, without the configuration."""
        running = None
        if self.candidate is not None:
            running = _data(self.candidate) | {"workers": [worker.as_data() for worker in self.workers]}
        ended = None
        if self.last is not None:
            ended = {name: getattr(self.last, name) for name in ("outcome", "reason", "by", "at")}
            ended = _data(self.last.candidate) | ended | {"started": self.last.candidate.at, "revision": self.last.revision or None}
        return {"candidate": running, "last": ended}


def audited(candidate: Candidate, action: str) -> tuple[str, int]:
    """Return what the audit stream calls something done to a candidate, and the revision that it is based on.

    :param action: what is done to a canary; a stage is what it is to be: ``apply``, or what changes the plugins.
    """
    change = candidate.change
    if candidate.mode == "stage":
        action = "apply" if change is None else change.action
    return (action, candidate.base) if change is None else (f"plugins {action}", candidate.deployment_base)


class Candidates:
    """The candidate of one gateway, on behalf of one actor.

    Methods raise :class:`~gwproxy.errors.StoreUnavailable` if the store does not answer.

    :param actor: who acts, for the history and the audit stream.
    """

    def __init__(self, store: CandidateStore, configurations: ConfigurationStore, audit: AuditLog, actor: str) -> None:
        self._store = store
        self._configurations = configurations
        self._audit = audit
        self._actor = actor

    def status(self) -> Status:
        """Return how the candidate is; one that is void ends now."""
        settle(self._store, self._audit)
        candidate = self._store.read(data=False)
        workers = self._workers(candidate, Roster(self._configurations)) if candidate is not None else ()
        return Status(candidate, workers, self._store.last())

    def canary(
        self,
        data: bytes,
        *,
        base: int,
        share: float,
        rules: Rules,
        comment: str = "",
        detail: str = "",
        tried: Tried | None = None,
    ) -> Candidate:
        """Serve a configuration to a share of the clients; if it is served as a canary already, change its share and its rules.

        :param base: the live revision that it was made from.
        :param tried: the deployment to serve it with; None: the live one.
        :param share: percent, above 0 and at most 100.
        :param detail: what changes, for the audit stream.
        :raises RevisionConflict: another revision is live.
        :raises CandidateBusy: there is another candidate.
        """
        if not 0 < share <= 100:
            raise CommandFailed(f"a canary serves more than 0 and at most 100 percent of the clients, not {share:g}")
        settle(self._store, self._audit)
        running = self._store.read(data=False)
        digests = (digest_of(data), deployment_digest(tried.deployment) if tried is not None else "")
        told = f"{share:g}% of clients, digest {(digests[1] or digests[0])[:12]}" + (f": {detail}" if detail else "")
        if running is not None and _same(running, "canary", digests, base):
            self._store.change(running.id, share=share, rules=rules.dump())
            self._note(running, "canary change", "done", told)
            return self._store.read(data=False) or running
        begun = self._store.start(
            data, mode="canary", base=base, actor=self._actor, comment=comment, share=share, rules=rules.dump(), tried=tried
        )
        self._note(begun, "canary", "done", told)
        return begun

    def confirm(
        self,
        canary: Candidate,
        *,
        timeout: float = 30.0,
        tell: Callable[[tuple[Acknowledgement, ...]], object] = lambda workers: None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Wait until every live worker has built a canary; if one does not, take it back, unless it was there before.

        :param canary: of :meth:`canary`.
        :param timeout: seconds.
        :param tell: called with what the workers make of it, whenever that changed.
        :raises NotStaged: a worker refuses it, or has not built it in time, or none is there.
        :raises CandidateGone: somebody has ended it, or changed what is live.
        """
        try:
            self._await(canary, timeout, tell, sleep, lambda: self._stands(canary))
        except CandidateGone:
            raise
        except BaseException as error:
            withdrawn = self._take_back(canary, error)
            if isinstance(error, NotStaged):
                error.withdrawn = withdrawn
            raise

    def running(self) -> Candidate:
        """Return the canary.

        :raises CommandFailed: there is none.
        """
        found = self.status().candidate
        if found is None or found.mode != "canary":
            raise CommandFailed("there is no canary; 'gwproxy canary status' tells how the last one ended")
        return found

    def promote(self) -> Published:
        """Make the canary live, for all clients, as a new revision.

        :raises CommandFailed: there is none.
        :raises CandidateGone: it has ended, or what it was made from is live no more.
        """
        canary = self.running()
        published = self._store.publish(canary.id, "promoted", f"by {self._actor}", by=self._actor)
        action, _ = audited(canary, "canary promote")
        self._audit.note(self._actor, action, "done", f"digest {published.digest[:12]}", published.revision)
        return published

    def abort(self, reason: str = "") -> Ended:
        """End the canary: all clients are served by the live configuration.

        :raises CommandFailed: there is none.
        :raises CandidateGone: it has ended meanwhile.
        """
        canary = self.running()
        reason = reason or f"by {self._actor}"
        if not self._store.finish(canary.id, "aborted", reason, by=self._actor):
            raise CandidateGone("the canary has ended meanwhile")
        self._note(canary, "canary abort", "done", reason)
        ended = self._store.last()
        assert ended is not None  # noqa: S101 - it was ended a moment ago
        return ended

    def stage(
        self,
        data: bytes,
        *,
        base: int,
        comment: str = "",
        detail: str = "",
        timeout: float = 30.0,
        tell: Callable[[tuple[Acknowledgement, ...]], object] = lambda workers: None,
        sleep: Callable[[float], object] = time.sleep,
        tried: Tried | None = None,
    ) -> Published:
        """Have every live worker build a configuration beside the live one, and make it live once all have.

        Workers that have built it serve it at once. If the caller dies, the candidate is withdrawn within ten seconds.

        :param base: the live revision that it was made from.
        :param detail: what changes, for the audit stream.
        :param timeout: seconds.
        :param tell: called with what the workers make of it, whenever that changed.
        :param tried: the deployment to build the live configuration with, and to make live; None: a configuration is staged.
        :raises NotStaged: a worker refuses it, or has not built it in time, or none is there. Nothing was changed.
        :raises RevisionConflict: another revision is live.
        :raises CandidateBusy: there is another candidate.
        :raises CandidateGone: somebody has ended it, or changed what is live.
        """
        settle(self._store, self._audit)
        candidate = self._store.start(data, mode="stage", base=base, actor=self._actor, comment=comment, lease=LEASE, tried=tried)
        try:
            self._await(candidate, timeout, tell, sleep, lambda: self._renewed(candidate))
            published = self._store.publish(candidate.id, "committed", "all workers have built it", by=self._actor)
        except BaseException as error:
            self._withdraw(candidate, error)
            raise
        action, _ = audited(candidate, "")
        self._audit.note(self._actor, action, "done", f"staged: {detail or published.digest}", published.revision)
        return published

    def _withdraw(self, candidate: Candidate, error: BaseException) -> None:
        """End a stage that came to nothing."""
        why = str(error) or type(error).__name__
        try:
            if settle(self._store, self._audit) is None:  # else what came between is told already
                self._store.finish(candidate.id, "refused" if isinstance(error, NotStaged) else "aborted", why, by=self._actor)
        except StoreUnavailable:
            log.warning("candidate_not_withdrawn candidate=%s lease=%g", candidate.id, LEASE)  # it ends by itself
        self._note(candidate, "", "refused", f"stage: {why}")

    def _await(
        self,
        candidate: Candidate,
        timeout: float,
        tell: Callable[[tuple[Acknowledgement, ...]], object],
        sleep: Callable[[float], object],
        stands: Callable[[], bool],
    ) -> None:
        """Wait until every live worker has built the candidate.

        :param stands: asked at each look; False: it is live already.
        :raises NotStaged: that does not come to pass.
        """
        began = time.monotonic()
        told: tuple[Acknowledgement, ...] = ()
        roster = Roster(self._configurations)
        while stands():
            workers = self._workers(candidate, roster)
            if workers != told:
                tell(workers)
                told = workers
            if not workers:
                raise NotStaged("no worker is there to build it", workers)
            if refusing := [worker for worker in workers if worker.state == "refused"]:
                raise NotStaged("; ".join(map(str, refusing)), workers)
            missing = [worker for worker in workers if worker.state != "built"]
            if not missing:
                return
            if time.monotonic() - began >= timeout:
                raise NotStaged(f"after {timeout:g} s {'; '.join(map(str, missing))}", workers)
            sleep(LOOK_EVERY)

    def _renewed(self, candidate: Candidate) -> bool:
        self._store.renew(candidate.id, LEASE)
        return True

    def _stands(self, canary: Candidate) -> bool:
        """Whether a canary is there; False: it has been promoted.

        :raises NotStaged: it was ended, because a worker refuses it.
        :raises CandidateGone: it has ended otherwise.
        """
        settle(self._store, self._audit)
        if self._store.look().candidate == canary.id:
            return True
        last = self._store.last()
        if last is None or last.candidate.id != canary.id:
            raise CandidateGone("the canary has ended")
        if last.outcome == "refused":
            raise NotStaged(last.reason, ())
        if last.outcome != "promoted":
            raise CandidateGone(f"the canary has ended, {last.outcome}: {last.reason}")
        return False

    def _take_back(self, canary: Candidate, error: BaseException) -> bool:
        """End a canary that has come to nothing; False: it goes on, since it was there before."""
        why = str(error) or type(error).__name__
        try:
            look = self._store.look()
            if look.candidate == canary.id and look.version != "1":
                return False
            self._store.finish(canary.id, "refused" if isinstance(error, NotStaged) else "aborted", why, by=self._actor)
        except StoreUnavailable:
            log.warning("canary_not_taken_back candidate=%s", canary.id)
        self._note(canary, "canary", "refused", why)
        return True

    def _note(self, candidate: Candidate, action: str, outcome: Outcome, detail: str) -> None:
        named, base = audited(candidate, action)
        self._audit.note(self._actor, named, outcome, detail, base)

    def _workers(self, candidate: Candidate, roster: Roster) -> tuple[Acknowledgement, ...]:
        """Return what each worker makes of it; those that have stopped, or are about to, have no say."""
        live = [worker for worker in roster.look() if worker.get("state") not in ("draining", STOPPED)]
        return tuple(Acknowledgement.of(worker, candidate) for worker in live)


def settle(store: CandidateStore, audit: AuditLog) -> Ended | None:
    """End the candidate if it is void; None if it is not, or there is none, or somebody else has ended it."""
    look = store.look()
    ended = store.settle(look.candidate) if look.void else None
    if ended is not None:
        action, base = audited(ended.candidate, "canary abort")
        audit.note(ended.by, action, "done", f"{ended.outcome}: {ended.reason}", base)
    return ended


def _same(running: Candidate, mode: str, digests: tuple[str, str], base: int) -> bool:
    """Whether a candidate is of that configuration and deployment, and made from that revision."""
    return (running.mode, running.digest, running.deployment_digest, running.base) == (mode, *digests, base)


def _data(candidate: Candidate) -> dict[str, Any]:
    found = {name: getattr(candidate, name) for name in ("id", "mode", "digest", "base", "actor", "comment", "at", "share")}
    try:
        rules: dict[str, object] | None = Rules.load(candidate.rules).shown()
    except CommandFailed:
        rules = None
    if (change := candidate.change) is not None:
        told = {"action": change.action, "distribution": change.distribution, "version": change.version}
        found["plugins"] = told | {"digest": candidate.deployment_digest, "base": candidate.deployment_base}
    sides = {side: Numbers.of(candidate.counts, side) for side in (LIVE, CANDIDATE)}
    total = sum(side.requests for side in sides.values())
    seen = round(100 * sides[CANDIDATE].requests / total, 3) if total else None
    return found | {"rules": rules, "sides": {side: numbers.shown() for side, numbers in sides.items()}, "share_seen": seen}
