"""Following what is deployed: loaded aside, judged under the configuration that is served, swapped, or refused as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gwproxy.controlplane.deployed import Deployed
from gwproxy.controlplane.serving import Serving
from gwproxy.errors import ConfigurationRefused, StoreUnavailable, WheelRefused
from gwproxy.store.deployments import LiveDeployment, Revocation
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.pushes")


class Pushes:
    """Keeps the plugins of a worker equal to what is deployed.

    A deployment that was refused is judged again when another configuration is served. Where none is served yet, it is loaded for
    the first.

    :param in_thread: calls a function where it may wait for a disk.
    """

    def __init__(self, serving: Serving, tally: Tally, in_thread: Callable[..., Any]) -> None:
        self._serving = serving
        self._deployments = serving.deployments
        self._tally = tally
        self._in_thread = in_thread
        self._judged: tuple[str, str] | None = None  # the deployment that was refused, and the configuration under which: their digests
        self._heard: Mapping[str, Revocation] | None = None  # what is revoked, as it was told last
        self._settled = False  # whether it is known what to run

    def follow(self, told: LiveDeployment | None, revoked: Mapping[str, Revocation]) -> bool:
        """Have what is deployed; what is revoked is taken out first. Return whether the plugins are others than before.

        :param told: None: nothing is known of it.
        :raises StoreUnavailable: a wheel is not here yet, and cannot be read now.
        """
        took_out = revoked is not self._heard and self._hear(revoked)
        if told is None or self._runs(told):
            return took_out
        if (told.digest, self._serving.standing.digest) == self._judged:
            return took_out
        try:
            self._deploy(self._serving.beside.deployed(told.data) or self._deployments.load(told.data))
        except (WheelRefused, ConfigurationRefused) as refused:
            self._serving.beside.keep()
            self._refuse(told.digest, str(refused))
            self.fall_back()
            return took_out
        return True

    def fall_back(self) -> None:
        """Have the plugins that were good before, if it is not known what is deployed, or that is refused."""
        if self._settled:
            return
        self._in_thread(self._deployments.learn, {})
        for kept in self._serving.kept_deployments():
            try:
                gone = self._deployments.revoked_in(kept.data)
                deployed = self._deployments.load(self._deployments.without(kept.data, gone) if gone else kept.data)
            except (WheelRefused, StoreUnavailable) as error:
                log.error("last_good_deployment_refused reason=%s", error)
                continue
            self._serving.have(deployed)
            self._settled = True
            log.warning("serving_last_good_deployment deployment=%s", deployed.digest[:12] or "none")
            return

    def begin(self, data: bytes, name: str, revision: int, digest: str) -> bool:
        """Serve the first configuration with a deployment of before, if that of now does not go with it; return whether any does."""
        told = self._serving.deployed
        others = [kept.data for kept in self._serving.kept_deployments() if kept.data != told.data]
        if not others:
            return False
        try:
            self._serving.serve(data, name, revision, digest, lenient=False)
        except ConfigurationRefused as refused:
            reason = str(refused)
        else:
            return True
        for other in others:
            try:
                self._serving.serve(data, name, revision, digest, self._deployments.load(other), lenient=False)
            except (WheelRefused, ConfigurationRefused, StoreUnavailable):
                continue
            self._refuse(told.digest, reason)
            return True
        self._serving.beside.keep()
        return False

    def _runs(self, told: LiveDeployment) -> bool:
        """Whether that runs already; also if it was refused, and taken back."""
        runs = self._settled and told.data == self._serving.deployed.data
        if runs and self._serving.standing.deployment_refused:
            self._accept()
        return runs

    def _deploy(self, deployed: Deployed, *, lenient: bool = False) -> None:
        """Serve with another deployment what is served.

        A plugin that the configuration lacks already is no reason to refuse it.

        :raises ConfigurationRefused: the configuration is not good with these plugins.
        """
        serving, standing = self._serving, self._serving.standing
        if not serving.begun:
            serving.have(deployed)
        elif deployed.data or serving.deployed.data:
            known = (serving.data, "live configuration", standing.revision, standing.digest)
            serving.serve(*known, deployed, lenient=lenient, elsewhere=serving.maker.unavailable())
            log.info("deployment_applied deployment=%s wheels=%d", deployed.digest[:12] or "none", len(deployed.wheels))
        self._settled = True
        self._accept()

    def _accept(self) -> None:
        self._judged = None
        self._serving.standing.deployment_refused = self._serving.standing.deployment_error = ""
        self._serving.changed()

    def _refuse(self, digest: str, reason: str) -> None:
        standing = self._serving.standing
        self._judged = digest, standing.digest
        standing.deployment_refused, standing.deployment_error = digest, reason
        log.error("deployment_refused deployment=%s reason=%s", digest[:12], reason)
        self._tally.add("deployments_refused")
        self._serving.changed()

    def _hear(self, revoked: Mapping[str, Revocation]) -> bool:
        """Serve nothing any more with a wheel that is revoked: routes that need it answer 503, or get the installed plugin."""
        self._in_thread(self._deployments.learn, revoked)
        self._heard = revoked
        self._serving.beside.take_out(lambda data: "; ".join(self._deployments.revoked_in(data).values()))
        running = self._serving.deployed
        gone = self._deployments.revoked_in(running.data)
        if not gone:
            return False
        left = self._deployments.load(self._deployments.without(running.data, gone))
        try:
            self._deploy(left, lenient=True)
        except ConfigurationRefused:  # the installed plugin of that name takes another configuration
            names = [name for pinned in gone for name in pinned.plugins]
            self._deploy(replace(left, registry=left.registry.lacking(names, "what was pushed was revoked")), lenient=True)
        self._tally.add("wheels_revoked")
        self._refuse(running.digest, "; ".join(gone.values()))
        return True
