"""Following a configuration: read, compare, parse, build aside, swap once. The loop never dies."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gevent import GreenletExit

from gwproxy.controlplane.beside import Beside
from gwproxy.controlplane.collection import Collector, uncollected
from gwproxy.controlplane.events import announce
from gwproxy.controlplane.last_good import LastGoodFile
from gwproxy.controlplane.leftovers import Leftovers
from gwproxy.controlplane.make import Maker
from gwproxy.controlplane.parse import Environment
from gwproxy.controlplane.sources import Found, Source
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.errors import ConfigurationRefused, StoreUnavailable
from gwproxy.registry import Registry

log = logging.getLogger("gwproxy.watch")

PATIENCE = 0.5  # seconds a change waits for DNS to know the names that are new in it
MIN_INTERVAL = 0.1  # seconds between two applications: a storm of changes is applied ten times a second at most


@dataclass(slots=True)
class Standing:
    """What this worker runs, or why it does not run what it should.

    :ivar state: ``starting``, ``ready``, ``refused`` or ``draining``.
    :ivar error: why the newest configuration is not run; empty if it is.
    :ivar refused: the digest of the configuration that is not run because it was judged; empty if there is none.
    :ivar applied_at: seconds since 1970; 0.0 before the first.
    :ivar build_ms: milliseconds it took to make what runs.
    """

    state: str = "starting"
    revision: int = 0
    digest: str = ""
    error: str = ""
    refused: str = ""
    applied_at: float = 0.0
    build_ms: float = 0.0


class Watcher:
    """Keeps a gateway's snapshot equal to what the source holds.

    :param pause: called between any two routes while a configuration is parsed and built, so that requests are served.
    :param revision_of: tells the revision of content that was read, recording a change nobody else has.
    :param changed: called after the standing changed.
    :param in_thread: calls a function where it may wait for a disk.
    :param collector: None leaves the garbage collector alone.

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
        revision_of: Callable[[bytes, str], int] | None = None,
        changed: Callable[[], None] = lambda: None,
        in_thread: Callable[..., Any] = lambda function, *args: function(*args),
        collector: Collector | None = None,
    ) -> None:
        self._source = source
        self._gateway = gateway
        self._registry = registry
        self._upstreams = upstreams
        self._last_good = last_good
        self._maker = Maker(registry, upstreams, environment, pause)
        self._pause = pause
        self._revision_of = revision_of
        self._changed = changed
        self._in_thread = in_thread
        self._collector = collector
        self._unjudged: Found | None = None  # the store went away while it was looked at, and will not offer it again
        self._away = False
        self._closed = False
        self.looked = False
        self.standing = Standing()
        self.beside = Beside(gateway, self._maker, pause, changed, collector, source.outdated)

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
            found, self._unjudged = self._source.poll() or self._unjudged, None
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
        digest = hashlib.sha256(found.data).hexdigest()
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
            self._consider(found.data, found.name, revision, digest)

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

    def _consider(self, data: bytes, name: str, revision: int, digest: str) -> None:
        """Apply what is new, or what this worker finds when it starts.

        A plugin that is not there refuses the whole, as long as there is another configuration to serve: of a fleet, the
        workers that start later must not serve what the others have refused. If there is none, a worker serves what it can.
        """
        starts = self._gateway.snapshot is None
        alone = starts and not self._keeps_another(digest)
        if self._apply(data, name, revision, digest, lenient=alone) or not starts or alone:
            return
        self._fall_back()
        if self._gateway.snapshot is None:
            self._apply(data, name, revision, digest, lenient=True)

    def _keeps_another(self, digest: str) -> bool:
        """Whether the configuration that was served last is another one."""
        return any(hashlib.sha256(found.data).hexdigest() != digest for found in self._last_good.load()[:1])

    def _confirm(self, revision: int) -> None:
        """The content is what runs already: a change was taken back, or published again."""
        self.standing.refused = ""
        self.standing.revision = revision
        self._report("ready", "")

    def _apply(self, data: bytes, name: str, revision: int, digest: str, *, lenient: bool) -> bool:
        began = time.monotonic()
        with uncollected():  # as one: a collection in between would stall requests like any other
            try:
                made = self.beside.built(digest) or self._maker.make(data, name, revision=revision, digest=digest, lenient=lenient)
            except ConfigurationRefused as refused:
                self._refuse(refused, revision, digest)
                return False
            self._upstreams.prepare(PATIENCE)
            served = self._gateway.snapshot
            before = self._maker.parsed
            leftovers = Leftovers(served, before) if served is not None and before is not None else None
            del served, before
            self._gateway.snapshot = made.snapshot  # the swap
            self.beside.withdraw(made)
            self._maker.keep(made)
            self.standing.refused = ""
            if self._collector is not None:
                self._collector.set_aside()
        self.beside.keep()
        self.standing.revision, self.standing.digest, self.standing.applied_at = revision, digest, time.time()
        self.standing.build_ms = made.ms
        took = (time.monotonic() - began) * 1000
        log.info("configuration_applied revision=%d digest=%s routes=%d ms=%.1f", revision, digest[:12], len(made.snapshot.routes), took)
        self._report("ready", "")
        announce(self._registry, self._gateway.tally, "configuration_applied", revision=revision, digest=digest)
        self._save(data, revision)
        if leftovers is not None:
            leftovers.free(self._pause)
        return True

    def _refuse(self, refused: ConfigurationRefused, revision: int, digest: str) -> None:
        self.standing.refused = digest
        for problem in refused.problems[:20]:
            log.error("configuration_problem revision=%d %s", revision, problem)
        log.error("configuration_refused revision=%d digest=%s problems=%d", revision, digest[:12], len(refused.problems))
        self._report("refused", str(refused))

    def _save(self, data: bytes, revision: int) -> None:
        try:
            self._in_thread(self._last_good.save, data, revision)
        except OSError as error:
            log.error("last_good_not_saved reason=%s", error)

    def _fall_back(self) -> None:
        """Serve what was good before, if there is nothing else to serve."""
        if self._gateway.snapshot is not None:
            return
        error, judged = self.standing.error, self.standing.refused
        for found in self._last_good.load():
            digest = hashlib.sha256(found.data).hexdigest()
            if digest == judged:
                continue
            if self._apply(found.data, "last good configuration", found.revision, digest, lenient=True):
                log.warning("serving_last_good revision=%d", found.revision)
                if error:
                    self.standing.refused = judged
                    self._report("refused", error)
                return

    def _report_refused(self, error: str) -> None:
        self._report("refused" if self._gateway.snapshot else "starting", error)

    def _report(self, state: str, error: str) -> None:
        if self.standing.state != "draining":
            self.standing.state = state
        self.standing.error = error
        self._changed()
