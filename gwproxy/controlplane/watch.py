"""Following a configuration: read, compare, parse, build aside, swap once. The loop never dies."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any

from gevent import GreenletExit

from gwproxy.controlplane.collection import Collector
from gwproxy.controlplane.deployed import Deployed, Deployments
from gwproxy.controlplane.last_good import LastGoodFile
from gwproxy.controlplane.parse import Environment
from gwproxy.controlplane.pushes import Pushes
from gwproxy.controlplane.serving import Serving
from gwproxy.controlplane.sources import Found, Source
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.errors import ConfigurationRefused, StoreUnavailable
from gwproxy.registry import Registry

log = logging.getLogger("gwproxy.watch")

MIN_INTERVAL = 0.1  # seconds between two applications: a storm of changes is applied ten times a second at most


class Watcher:
    """Keeps a gateway's snapshot equal to what the source holds: a configuration, and a deployment of plugins.

    Each is judged under the other that runs; what was refused is judged again when the other has changed.

    :param registry: the plugins that are installed.
    :param pause: called between any two routes while a configuration is parsed and built, so that requests are served.
    :param tidy: likewise, while what was served before is freed.
    :param revision_of: tells the revision of content that was read, recording a change nobody else has.
    :param changed: called after the standing changed.
    :param in_thread: calls a function where it may wait for a disk.
    :param collector: None leaves the garbage collector alone.
    :param deployments: loads what was pushed; None: nothing is.
    :param last_deployed: keeps deployments as ``last_good`` does configurations; None: they are not kept.

    :ivar beside: what it keeps of the candidate that the source has, if it has one.
    :ivar looked: whether it has looked at least once: what there was to serve is served.
    """

    def __init__(
        self,
        source: Source,
        gateway: Gateway,
        registry: Registry,
        upstreams: Upstreams,
        environment: Environment,
        last_good: LastGoodFile,
        *,
        pause: Callable[[], None] = lambda: None,
        tidy: Callable[[], None] = lambda: None,
        revision_of: Callable[[bytes, str], int] | None = None,
        changed: Callable[[], None] = lambda: None,
        in_thread: Callable[..., Any] = lambda function, *args: function(*args),
        collector: Collector | None = None,
        deployments: Deployments | None = None,
        last_deployed: LastGoodFile | None = None,
    ) -> None:
        self._source = source
        self._gateway = gateway
        self._serving = Serving(
            gateway,
            upstreams,
            deployments or Deployments(registry, gateway.tally),
            environment,
            last_good,
            last_deployed,
            outdated=source.outdated,
            pause=pause,
            tidy=tidy,
            changed=changed,
            in_thread=in_thread,
            collector=collector,
        )
        self._pause = pause
        self._pushes = Pushes(self._serving, gateway.tally, in_thread)
        self._revision_of = revision_of
        self._collector = collector
        self._unjudged: Found | None = None  # the store went away while it was looked at, and will not offer it again
        self._refused: Found | None = None  # it may be good with other plugins
        self._away = False
        self._closed = False
        self.looked = False
        self.standing = self._serving.standing
        self.beside = self._serving.beside

    @property
    def deployed(self) -> Deployed:
        """What was pushed and runs, with all plugins that there are."""
        return self._serving.deployed

    def run(self) -> None:
        """Follow the source until closed."""
        while not self._closed:
            began = time.monotonic()
            try:
                self.step()
            except GreenletExit:
                raise  # the worker stops
            except BaseException as error:  # whatever it was (a plugin's model may raise anything), the next look may find it mended
                log.exception("watch_failed")
                self._report_refused(f"an unexpected {type(error).__name__}; the log of the worker says more")
            self.looked = True
            if self._collector is not None:
                self._collector.look()
            self._source.wait()
            rest = MIN_INTERVAL - (time.monotonic() - began)
            if rest > 0 and not self._closed:
                time.sleep(rest)

    def close(self) -> None:
        """Stop following."""
        self._closed = True
        self._source.close()

    def step(self) -> None:
        """Look once, and apply what changed."""
        try:
            self._unjudged = self._source.poll() or self._unjudged
            if self._pushes.follow(self._source.deployment, self._source.revoked) and self._refused is not None:
                self._unjudged, self._refused, self.standing.refused = self._unjudged or self._refused, None, ""
            found, self._unjudged = self._unjudged, None
            if found is not None:
                self._judge(found)
        except StoreUnavailable as error:
            if not self._away:
                log.warning("source_away reason=%s", error)
            self._away = True
            self._fall_back()
            return
        if self._away:
            log.info("source_back")
            self._away = False
        self._fall_back()
        self.beside.follow(self._source.candidate)

    def _judge(self, found: Found) -> None:
        """Apply what was found, unless it is what runs already or what was refused.

        :raises StoreUnavailable: its revision cannot be told; it is judged at the next look.
        """
        if found.data is None:
            self.standing.refused = ""
            self._report_refused(f"{found.name} is missing or empty")
            return
        self._pause()  # reading 1.5 MB takes two milliseconds, a digest of it another
        digest = hashlib.sha256(found.data).hexdigest()
        self._pause()
        revision = found.revision
        if self._revision_of is not None:
            try:
                # 0: the store has moved on since the read; what came after is found at the next look.
                revision = self._revision_of(found.data, digest) or found.revision
            except StoreUnavailable:
                self._unjudged = found
                raise
        self._compare(found.revision, revision, digest)
        if digest == self.standing.digest:
            self._confirm(revision)
        elif digest != self.standing.refused:
            self._refused = None if self._consider(found.data, found.name, revision, digest) else found

    def _compare(self, counter: int, revision: int, digest: str) -> None:
        """Say when revisions do not grow: the store was emptied, or restored. The content decides all the same.

        :param counter: the store's, when ``digest`` was read.
        :param revision: that of ``digest``.
        """
        before = self.standing.revision
        if self._revision_of is None or digest in (self.standing.digest, self.standing.refused):
            return
        if before and (counter < before or revision == before):
            log.warning("revision_not_higher revision=%d digest=%s before=%d", revision, digest[:12], before)
            self._gateway.tally.add("revisions_not_higher")

    def _consider(self, data: bytes, name: str, revision: int, digest: str) -> bool:
        """Apply what is new, or what this worker finds when it starts; return whether it is served.

        A plugin that is not there refuses the whole, as long as there is another configuration to serve: of a fleet, the
        workers that start later must not serve what the others have refused. If there is none, a worker serves what it can.
        """
        starts = not self._serving.begun
        if starts and self._pushes.begin(data, name, revision, digest):
            return True
        alone = starts and not self._keeps_another(digest)
        if self._apply(data, name, revision, digest, lenient=alone):
            return True
        if not starts or alone:
            return False
        self._fall_back()
        return not self._serving.begun and self._apply(data, name, revision, digest, lenient=True)

    def _keeps_another(self, digest: str) -> bool:
        """Whether the configuration that was served last is another one."""
        return any(hashlib.sha256(found.data).hexdigest() != digest for found in self._serving.last_good.load()[:1])

    def _confirm(self, revision: int) -> None:
        """The content is what runs already: a change was taken back, or published again."""
        self.standing.refused, self._refused = "", None
        self.standing.revision = revision
        self._serving.report("ready", "")

    def _apply(self, data: bytes, name: str, revision: int, digest: str, *, lenient: bool) -> bool:
        try:
            self._serving.serve(data, name, revision, digest, lenient=lenient)
        except ConfigurationRefused as refused:
            self._refuse(refused, revision, digest)
            return False
        return True

    def _refuse(self, refused: ConfigurationRefused, revision: int, digest: str) -> None:
        self.standing.refused = digest
        for problem in refused.problems[:20]:
            log.error("configuration_problem revision=%d %s", revision, problem)
        log.error("configuration_refused revision=%d digest=%s problems=%d", revision, digest[:12], len(refused.problems))
        self._serving.report("refused", str(refused))

    def _fall_back(self) -> None:
        """Serve what was good before, if there is nothing else to serve."""
        if self._serving.begun:
            return
        self._pushes.fall_back()
        error, judged = self.standing.error, self.standing.refused
        for found in self._serving.last_good.load():
            digest = hashlib.sha256(found.data).hexdigest()
            if digest == judged:
                continue
            if self._apply(found.data, "last good configuration", found.revision, digest, lenient=True):
                log.warning("serving_last_good revision=%d", found.revision)
                if error:
                    self.standing.refused = judged
                    self._serving.report("refused", error)
                return

    def _report_refused(self, error: str) -> None:
        self._serving.report("refused" if self._serving.begun else "starting", error)
