"""What people do with pushed plugins: push a wheel, go back, take one out, revoke one. All but revoking is tried by every worker first.

Nothing here prints, and nothing knows who asks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from packaging.utils import canonicalize_name

from gwproxy.controlplane.candidates import Acknowledgement, Candidates
from gwproxy.controlplane.rollout import Replacement, Rollout
from gwproxy.controlplane.roster import Worker
from gwproxy.controlplane.rules import Rules
from gwproxy.errors import CommandFailed, GatewayError, StoreUnavailable, WheelRefused
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import Candidate, Tried
from gwproxy.store.configuration import ConfigurationStore, Published, digest_of
from gwproxy.store.deployments import Change, DeploymentConflict, DeploymentStore, LiveDeployment
from gwproxy.wheels.deployment import Deployment, Pinned


@dataclass(frozen=True, slots=True)
class Planned:
    """A change of the deployment that may be made.

    :ivar base: what is live, and it was made from.
    """

    change: Change
    before: Deployment
    after: Deployment
    base: LiveDeployment = field(repr=False)

    @property
    def unchanged(self) -> bool:
        """Whether it is live already."""
        return self.before.digest == self.after.digest

    @property
    def plugins(self) -> set[str]:
        """The names of the plugins that are other ones, or come, or go."""
        differing = {*self.before} ^ {*self.after}
        return {name for pinned in differing for name in pinned.plugins}

    def summary(self) -> str:
        """Return what changes, for people: ``tenant 1.0 -> 1.1``."""
        before, after = ({pinned.distribution: pinned for pinned in held} for held in (self.before, self.after))
        told = []
        for name in sorted({*before, *after}):
            old, new = before.get(name), after.get(name)
            if old != new:
                told.append(f"{name} {' -> '.join(_version(held, old, new) for held in (old, new))}")
        return ", ".join(told) or "nothing"


@dataclass(frozen=True, slots=True)
class Bad:
    """Something that is not to run any more: a wheel, or a key and all that it signed.

    :ivar name: what is written down as revoked: the wheel's SHA-256, or the key's id.
    :ivar told: for people.
    :ivar concerns: says of a wheel of a deployment whether it is one of it.
    """

    name: str
    told: str
    concerns: Callable[[Pinned], bool] = field(repr=False)


class Deployer:
    """Changes what is deployed on one gateway, on behalf of one actor.

    Methods raise :class:`~gwproxy.errors.StoreUnavailable` if the store does not answer.

    :param actor: who acts, for the history and the audit stream.
    """

    def __init__(
        self, store: DeploymentStore, candidates: Candidates, configurations: ConfigurationStore, audit: AuditLog, actor: str
    ) -> None:
        self.store = store
        self.configurations = configurations
        self.actor = actor
        self.candidates = candidates
        self.audit = audit

    # ---- what would change

    def live(self) -> tuple[LiveDeployment, Deployment]:
        """Return what is live.

        :raises WheelRefused: somebody else has written it, and it is no deployment.
        """
        live = self.store.live()
        return live, Deployment.load(live.data)

    def push(self, wheel: Pinned) -> Planned:
        """Plan to deploy a wheel, in the place of any other version of its distribution.

        :raises WheelRefused: another wheel that is deployed has a plugin of the same name, or this one was revoked.
        """
        base, before = self.live()
        if (found := self.store.revoked().get(wheel.sha256)) is not None:
            raise WheelRefused(f"{wheel} was revoked by {found.actor} at {found.at}: {found.reason}")
        return Planned(Change("push", wheel.distribution, wheel.version), before, before.with_(wheel), base)

    def remove(self, distribution: str) -> Planned:
        """Plan to take a distribution out.

        :raises CommandFailed: it is not deployed.
        """
        base, before = self.live()
        if (pinned := before.find(distribution)) is None:
            raise CommandFailed(f"{distribution} is not deployed; deployed are: {', '.join(map(str, before)) or 'none'}")
        return Planned(Change("remove", pinned.distribution), before, before.without(distribution), base)

    def rollback(self, distribution: str | None = None, version: str | None = None) -> Planned:
        """Plan to go back: to what was deployed before the newest change, or with one distribution to what it was before.

        What was revoked since is passed over.

        :param distribution: None: all of them.
        :param version: of ``distribution``: the newest that there was under this number; None: whichever was there before.
        :raises CommandFailed: the history knows of nothing to go back to.
        """
        base, before = self.live()
        revoked = self.store.revoked()
        passed = ""
        for after in self._past(before, distribution, version):
            bad = next((pinned for pinned in after if pinned.sha256 in revoked and pinned not in before), None)
            if bad is None:
                now = after.find(distribution) if distribution is not None else None
                about = Change("rollback", canonicalize_name(distribution or ""), now.version if now is not None else "")
                return Planned(about, before, after, base)
            found = revoked[bad.sha256]
            passed = passed or f"; {bad.distribution} {bad.version} was revoked by {found.actor}: {found.reason}"
        what = f" of {distribution}" if distribution is not None else ""
        known = versions(Deployment.load(entry.deployment) for entry in self.store.walk()).get(canonicalize_name(distribution or ""), [])
        told = f"; it has had {', '.join(known)}" if version is not None and known and not passed else passed
        raise CommandFailed(f"the history has nothing{what}{f' {version}' if version else ''} to go back to{told}")

    def _past(self, before: Deployment, distribution: str | None, version: str | None) -> Iterator[Deployment]:
        """Yield what may be gone back to, the newest first; before the first change of all, there was nothing."""
        past = (Deployment.load(entry.deployment) for entry in self.store.walk())
        for found in chain(past, [Deployment()]):
            if distribution is not None:
                old = found.find(distribution)
                if version is not None and (old is None or old.version != version):
                    continue
                found = before.with_(old) if old is not None else before.without(distribution)
            if found.digest != before.digest:
                yield found

    # ---- changing it

    def stage(
        self,
        planned: Planned,
        *,
        comment: str = "",
        timeout: float = 30.0,
        tell: Callable[[tuple[Acknowledgement, ...]], object] = lambda workers: None,
    ) -> Published:
        """Have every live worker load and build it aside, and make it live once all have.

        :raises NotStaged: a worker refuses it, or has not built it in time, or none is there. Nothing was changed.
        :raises DeploymentConflict: another deployment is live.
        :raises CandidateBusy: there is another candidate.
        :raises CandidateGone: somebody has ended it, or changed what is live.
        :raises WheelMissing: a wheel is not in the store any more.
        """
        data, base = self._configuration()
        return self.candidates.stage(
            data, base=base, comment=comment, detail=planned.summary(), timeout=timeout, tell=tell, tried=_tried(planned)
        )

    def canary(self, planned: Planned, *, share: float, rules: Rules, comment: str = "") -> Candidate:
        """Serve some clients with it; :meth:`Candidates.confirm` waits until all workers do.

        :param share: percent, above 0 and at most 100.
        :raises DeploymentConflict: another deployment is live.
        :raises CandidateBusy: there is another candidate.
        """
        data, base = self._configuration()
        return self.candidates.canary(
            data, base=base, share=share, rules=rules, comment=comment, detail=planned.summary(), tried=_tried(planned)
        )

    def revoke(self, bad: Sequence[Bad], reason: str) -> tuple[Planned, LiveDeployment]:
        """Revoke wheels or keys, for ever; what is deployed of them is taken out in the same step, without asking any worker.

        A candidate that has any of it ends.

        :return: what has changed, and what is live now.
        :raises DeploymentConflict: others change the deployment all the time.
        """
        self._end_candidate(bad, reason)
        for last in (False, False, True):
            base, before = self.live()
            planned = Planned(Change("revoke", _one(before, bad)), before, _without(before, bad), base)
            without = b"" if planned.unchanged else planned.after.dump()
            try:
                live = self.store.revoke(
                    [each.name for each in bad], reason, actor=self.actor, without=without, base=base, about=planned.change
                )
            except DeploymentConflict:
                if last:
                    raise
                continue
            detail = f"{', '.join(each.told for each in bad)}: {reason}" + (f" ({planned.summary()})" if without else "")
            self.audit.note(self.actor, "plugins revoke", "done", detail, live.revision)
            return planned, live
        raise AssertionError("unreachable")

    def refused(self, action: str, reason: str) -> None:
        """Record that something was asked for and could not be."""
        with contextlib.suppress(StoreUnavailable):
            self.audit.note(self.actor, f"plugins {action}", "refused", reason, self.store.live().revision)

    def _end_candidate(self, bad: Sequence[Bad], reason: str) -> None:
        running = self.candidates.status().candidate
        if running is None or not running.deployment:
            return
        if any(each.concerns(pinned) for pinned in Deployment.load(running.deployment) for each in bad):
            with contextlib.suppress(CommandFailed, GatewayError):
                self.candidates.abort(f"revoked: {reason}")

    def _configuration(self) -> tuple[bytes, int]:
        """Return the live configuration and its revision; a bare ``SET`` that nobody has noted yet is noted."""
        for _ in range(10):
            latest = self.configurations.latest()
            if latest.data is None:
                return b"[]", latest.revision or 0
            if latest.revision is not None:
                return latest.data, latest.revision
            self.configurations.note_external(latest.data, digest_of(latest.data))
        raise StoreUnavailable("the configuration is being overwritten all the time by somebody else")


class DeploymentRollout(Rollout):
    """Follows one revision of the plugins, as :class:`Rollout` one of the configuration.

    :param deployments: of the same gateway.
    """

    what = "plugins revision"
    fields = ("deployment", "deployment_refused", "deployment_error")

    def __init__(
        self,
        store: ConfigurationStore,
        published: Published,
        deployments: DeploymentStore,
        *,
        timeout: float = 30.0,
        known: Sequence[Worker] = (),
    ) -> None:
        super().__init__(store, published, timeout=timeout, known=known)
        self._deployments = deployments

    def _overtaken(self) -> tuple[bool, Replacement | None]:
        live = self._deployments.live()
        if live.digest == self._published.digest:
            return False, None
        newest = next(self._deployments.walk(), None) if live.data else None
        return True, None if newest is None else Replacement(newest.revision, newest.actor, newest.at)

    def _serves(self, state: str) -> bool:
        return True  # one that refuses a configuration serves another, with these plugins

    def _revision(self, worker: Worker) -> int:
        return self._published.revision if worker.get("deployment") == self._published.digest else 0


def versions(past: Iterable[Deployment]) -> dict[str, list[str]]:
    """Return which versions of each distribution there were, in the order given."""
    found: dict[str, dict[str, None]] = {}
    for pinned in chain.from_iterable(past):
        found.setdefault(pinned.distribution, {})[pinned.version] = None
    return {distribution: list(held) for distribution, held in found.items()}


def _tried(planned: Planned) -> Tried:
    return Tried(planned.after.dump(), planned.base, planned.change)


def _without(deployment: Deployment, bad: Sequence[Bad]) -> Deployment:
    return Deployment(tuple(pinned for pinned in deployment if not any(each.concerns(pinned) for each in bad)))


def _one(deployment: Deployment, bad: Sequence[Bad]) -> str:
    """Return the distribution that is concerned, if it is one."""
    found = {pinned.distribution for pinned in deployment if any(each.concerns(pinned) for each in bad)}
    return found.pop() if len(found) == 1 else ""


def _version(held: Pinned | None, old: Pinned | None, new: Pinned | None) -> str:
    """Return a version; with the digest where two wheels have the same."""
    if held is None:
        return "none"
    alike = old is not None and new is not None and old.version == new.version
    return f"{held.version} ({held.sha256[:12]})" if alike else held.version
