"""What a worker does for a canary beside serving it: it tells the store what it counted, and ends the canary when a rule says so.

There is no leader: every worker reports every two seconds, and the store asks the first of them to judge what all have reported. The end
is one step in the store, which only one of many can do.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Mapping

from gevent import GreenletExit

from gwproxy.controlplane.beside import Beside
from gwproxy.controlplane.candidates import audited, settle
from gwproxy.controlplane.rules import Rules
from gwproxy.dataplane.canary import Canary
from gwproxy.dataplane.gateway import Gateway
from gwproxy.errors import GatewayError, StoreUnavailable
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import Candidate, CandidateGone, CandidateStore, Judgement
from gwproxy.store.deployments import WheelMissing

log = logging.getLogger("gwproxy.referee")

INTERVAL = 2.0  # seconds
BY = "gateway"  # who has ended a candidate that nobody has ended


class Referee:
    """Reports what a worker counts under a canary, and judges it when it is this worker's turn.

    :param worker_id: of this worker; what it tells twice counts once.
    """

    def __init__(self, store: CandidateStore, audit: AuditLog, worker_id: str, beside: Beside, gateway: Gateway) -> None:
        self._store = store
        self._audit = audit
        self._worker_id = worker_id
        self._beside = beside
        self._gateway = gateway
        self._canary: Canary | None = None  # what was told is of
        self._told: Mapping[str, int] = {}  # what the store has added up already
        self._telling: Mapping[str, int] | None = None  # what it may have, if its answer was lost
        self._number = 0
        self._now = threading.Event()
        self._closed = False

    def run(self) -> None:
        """Report until closed; what goes wrong is tried again."""
        while not self._closed:
            self._now.clear()
            try:
                self.step()
            except StoreUnavailable as error:
                log.debug("report_failed reason=%s", error)
            except GreenletExit:
                raise
            except Exception:
                log.exception("referee_failed")
            self._now.wait(INTERVAL * random.uniform(0.8, 1.0))  # noqa: S311 - jitter

    def wake(self) -> None:
        """Report without waiting for the interval."""
        self._now.set()

    def close(self) -> None:
        """Stop, and tell what was counted last."""
        self._closed = True
        self._now.set()
        with contextlib.suppress(StoreUnavailable, CandidateGone):
            if self._gateway.canary is not None:
                self._report(self._gateway.canary)

    def step(self) -> None:
        """Report once, and end what is to end.

        :raises StoreUnavailable: the store did not answer.
        """
        if (ended := settle(self._store, self._audit)) is not None:
            log.warning("candidate_ended candidate=%s outcome=%s reason=%s", ended.candidate.id, ended.outcome, ended.reason)
            return
        held = self._beside.held
        if held is None or held.candidate.mode != "canary":
            return  # of a stage, its owner hears by the heartbeat
        if held.state == "refused":
            self._finish(held.candidate, "refused", f"{self._worker_id} refuses it: {held.error}")
        elif self._gateway.canary is not None:
            with contextlib.suppress(CandidateGone):  # the watcher lets go of it, in a moment
                judgement = self._report(self._gateway.canary)
                if judgement is not None:
                    self._judge(held.candidate, judgement)

    def _report(self, canary: Canary) -> Judgement | None:
        if canary is not self._canary:
            self._canary, self._told, self._telling = canary, {}, None
        if self._telling is None:
            self._number += 1
            sides = {"live": canary.live, "candidate": canary.candidate}
            self._telling = {f"{side}:{name}": count for side, counted in sides.items() for name, count in counted.counts().items()}
        added = {name: count - self._told.get(name, 0) for name, count in self._telling.items() if count != self._told.get(name, 0)}
        judgement = self._store.report(canary.id, self._worker_id, self._number, added)
        self._told, self._telling = self._telling, None
        return judgement

    def _judge(self, candidate: Candidate, judgement: Judgement) -> None:
        try:
            decision = Rules.load(candidate.rules).decide(judgement.counts, judgement.age)
        except GatewayError as error:
            self._finish(candidate, "aborted", str(error))
            return
        if decision is None:
            return
        if decision.outcome == "promoted":
            try:
                self._promote(candidate, decision.reason)
            except WheelMissing as error:
                self._finish(candidate, "aborted", str(error))
        else:
            self._finish(candidate, decision.outcome, decision.reason)

    def _promote(self, candidate: Candidate, reason: str) -> None:
        published = self._store.publish(candidate.id, "promoted", reason, by=BY, actor=candidate.actor)
        log.warning("canary_promoted candidate=%s revision=%d reason=%s", candidate.id, published.revision, reason)
        self._audit.note(BY, audited(candidate, "canary promote")[0], "done", reason, published.revision)

    def _finish(self, candidate: Candidate, outcome: str, reason: str) -> None:
        if self._store.finish(candidate.id, outcome, reason, by=BY):
            log.warning("canary_ended candidate=%s outcome=%s reason=%s", candidate.id, outcome, reason)
            action, base = audited(candidate, "canary abort")
            self._audit.note(BY, action, "done", f"{outcome}: {reason}", base)
