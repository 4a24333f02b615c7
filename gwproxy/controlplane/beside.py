"""The candidate of a worker: built beside what it serves, served to some if it is a canary, given over when it goes live."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gevent import GreenletExit

from gwproxy.controlplane.collection import Collector
from gwproxy.controlplane.deployed import Deployed, Deployments
from gwproxy.controlplane.leftovers import Leftovers
from gwproxy.controlplane.make import Made, Maker
from gwproxy.dataplane.canary import Canary
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.errors import ConfigurationRefused, StoreUnavailable, WheelRefused
from gwproxy.store.candidates import Candidate

log = logging.getLogger("gwproxy.beside")


class _Outdated(Exception):
    """What is being built is not wanted any more."""


@dataclass(slots=True)
class Held:
    """What this worker has made of the candidate.

    :ivar state: ``building``, ``built`` or ``refused``.
    :ivar error: why it was refused; empty if it was not.
    :ivar made: None unless it is built.
    :ivar deployed: what was loaded for it; None if the candidate is a configuration, or nothing is loaded.
    """

    candidate: Candidate
    state: str = "building"
    error: str = ""
    made: Made | None = None
    deployed: Deployed | None = None


class Beside:
    """Keeps at most one candidate beside what a gateway serves.

    :param deployments: loads the candidate's deployment, if it is one.
    :param pause: called between any two routes while it is built, so that requests are served.
    :param tidy: likewise, while what was let go of is freed.
    :param changed: called after what is to be reported has changed.
    :param outdated: asked while a candidate is built: whether there is something else to do first. What is live comes before what may be.
    """

    def __init__(
        self,
        gateway: Gateway,
        maker: Maker,
        deployments: Deployments,
        pause: Callable[[], None],
        tidy: Callable[[], None],
        changed: Callable[[], None],
        collector: Collector | None,
        outdated: Callable[[], bool] = lambda: False,
    ) -> None:
        self._gateway = gateway
        self._maker = maker
        self._deployments = deployments
        self._pause = pause
        self._tidy = tidy
        self._changed = changed
        self._collector = collector
        self._outdated = outdated
        self.held: Held | None = None

    def follow(self, candidate: Candidate | None) -> None:
        """Have what the store has: build it, or let go of what is no more.

        :param candidate: None if there is none, or none that is good for what is live.
        """
        held = self.held
        if held is not None and candidate is not None and held.candidate.id == candidate.id:
            self._adjust(held, candidate)
            return
        if held is not None:
            self._drop(held)
        if candidate is not None:
            self._build(candidate)

    def built(self, digest: str, deployment: bytes) -> Made | None:
        """Return what was built of the configuration of that digest and that deployment; None if that is not the candidate."""
        made = self.held.made if self.held is not None and self.held.candidate.digest == digest else None
        return made if made is not None and made.deployed.data == deployment else None

    def deployed(self, deployment: bytes) -> Deployed | None:
        """Return that deployment as it was loaded for the candidate; None if it was not."""
        deployed = self.held.deployed if self.held is not None else None
        return deployed if deployed is not None and deployed.data == deployment else None

    def take_out(self, reason: Callable[[bytes], str]) -> None:
        """Serve nothing any more by a candidate with a wheel that is revoked.

        :param reason: says of a deployment what of it is revoked; empty: nothing.
        """
        held = self.held
        if held is None or held.deployed is None or not (why := reason(held.deployed.data)):
            return
        self._gateway.canary = self._gateway.beside = None
        held.made = held.deployed = None
        self._refuse(held, why)

    def withdraw(self, live: Made) -> None:
        """Serve nothing by the candidate any more: another configuration is live from now on. Takes no time.

        :param live: what is served now; it may be what was the candidate.
        """
        self._gateway.canary = self._gateway.beside = None
        if self.held is not None and self.held.made is live:
            self.held = None

    def _drop(self, held: Held) -> None:
        """Let go of the candidate. Requests that it serves keep it to their end."""
        log.info("candidate_dropped candidate=%s", held.candidate.id)
        self.held = self._gateway.canary = self._gateway.beside = None
        leftovers = Leftovers(held.made.snapshot, held.made.parsed) if held.made is not None else None
        held.made = held.deployed = None
        self.keep()
        if leftovers is not None:
            leftovers.free(self._tidy)
        self._changed()

    def keep(self) -> None:
        """Let go of every upstream, and of every wheel, that neither what is served nor the candidate needs."""
        self._gateway.upstreams.keep(self._upstreams())
        self._deployments.keep(self._maker.deployed, self.held.deployed if self.held is not None else None)

    def shown(self) -> dict[str, Any] | None:
        """Return what the heartbeat says of the candidate; None if there is none."""
        held = self.held
        if held is None:
            return None
        candidate, canary = held.candidate, self._gateway.canary
        found: dict[str, Any] = {"id": candidate.id, "digest": candidate.digest, "mode": candidate.mode, "state": held.state}
        found |= {
            "deployment": candidate.deployment_digest,
            "error": held.error[:2000],
            "build_ms": round(held.made.ms, 1) if held.made is not None else None,
        }
        if canary is not None:
            found |= {"share": canary.share, "sides": {"live": canary.live.counts(), "candidate": canary.candidate.counts()}}
        return found

    def _upstreams(self) -> Iterator[LiveUpstream]:
        for snapshot in (self._gateway.snapshot, self._gateway.beside):
            if snapshot is not None:
                yield from snapshot.upstreams

    def _build(self, candidate: Candidate) -> None:
        held = self.held = Held(candidate)
        self._changed()
        if hashlib.sha256(candidate.data).hexdigest() != candidate.digest:
            self._refuse(held, "its bytes are not those that its digest tells of")
            return
        try:
            held.made = self._make(held)
        except GreenletExit:
            raise  # the worker stops
        except (_Outdated, StoreUnavailable):  # it is tried again, if it is still there
            self._drop(held)
        except (ConfigurationRefused, WheelRefused) as refused:
            self._refuse(held, str(refused))
        except BaseException as error:  # a plugin's model may raise anything
            log.exception("candidate_failed candidate=%s", candidate.id)
            self._refuse(held, f"an unexpected {type(error).__name__}; the log of the worker says more")
        else:
            self._show(held, held.made)

    def _make(self, held: Held) -> Made:
        """Load and build it.

        A plugin that the live configuration lacks already is no reason to refuse another deployment.
        """
        candidate = held.candidate
        if candidate.deployment:
            held.deployed = self._deployments.load(candidate.deployment)
        return self._maker.make(
            candidate.data,
            "candidate",
            revision=candidate.base,
            digest=candidate.digest,
            lenient=False,
            pause=self._pause_or_leave,
            deployed=held.deployed,
            elsewhere=self._maker.unavailable() if candidate.deployment else (),
        )

    def _pause_or_leave(self) -> None:
        self._pause()
        if self._outdated():
            raise _Outdated

    def _show(self, held: Held, made: Made) -> None:
        held.state = "built"
        if self._collector is not None:
            self._collector.set_aside()
        self._adjust(held, held.candidate)
        log.info("candidate_built candidate=%s digest=%s ms=%.1f", held.candidate.id, held.candidate.digest[:12], made.ms)
        self._changed()

    def _adjust(self, held: Held, candidate: Candidate) -> None:
        """Serve as much by the candidate as it is to serve."""
        held.candidate = candidate
        if held.made is None:
            return
        self._gateway.beside = held.made.snapshot
        if candidate.mode != "canary":
            return
        canary = self._gateway.canary
        if canary is None:
            self._gateway.canary = Canary(candidate.id, held.made.snapshot, candidate.share)
        elif canary.share != candidate.share:
            canary.resize(candidate.share)
        else:
            return
        log.info("canary_serves candidate=%s share=%g", candidate.id, candidate.share)
        self._changed()

    def _refuse(self, held: Held, error: str) -> None:
        held.state, held.error, held.deployed = "refused", error, None
        self.keep()
        log.error("candidate_refused candidate=%s reason=%s", held.candidate.id, error)
        self._changed()
