"""Copies of requests for another upstream: nobody waits for them, or for what becomes of them."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import gevent

from gwproxy.context import Context, UpstreamChoice
from gwproxy.dataplane.target import LiveTarget
from gwproxy.dataplane.transport import Failure, UpstreamRequest
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.errors import ServiceUnavailable
from gwproxy.http.bodies import RequestBody
from gwproxy.model import Mirror, Timeouts
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.mirror")

LONGEST = 30.0  # seconds that a copy may take in all
_DRAINED = 1 << 20  # bytes of its answer that are read, so that the connection can serve the next

#: Makes the header block for a target.
Block = Callable[[LiveTarget], bytes]


class Copy:
    """A request that is to be sent a second time, once its body is known.

    What the main request's attempt reads of the body is kept here as it passes, up to the bound: nothing waits for it.
    """

    __slots__ = ("_block", "_kept", "_method", "_mirror", "_path", "_size", "_target", "_timeouts")

    def __init__(self, mirror: LiveMirror, target: LiveTarget, method: str, path: bytes, timeouts: Timeouts, block: bytes) -> None:
        self._mirror = mirror
        self._target = target
        self._method = method
        self._path = path
        self._timeouts = timeouts
        self._block = block
        self._kept: list[bytes] | None = []
        self._size = 0

    def watch(self, body: RequestBody) -> None:
        """Keep what passes of a body that has still to come."""
        body.tap = self._passed

    def _passed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._mirror.described.max_body:
            self._kept = None
        if self._kept is not None:
            self._kept.append(chunk)

    def finish(self, body: RequestBody) -> None:
        """Send it, if all of the body has come and it was not too long."""
        body.tap = None
        whole = body.replayable(self._mirror.described.max_body)
        if whole is None and self._kept is not None and body.ended and self._size == body.received:
            whole = b"".join(self._kept)
        if whole is None:
            self._mirror.drop("body")
            return
        self._mirror.send(self._target, self._request(whole if body.length != 0 else None))

    def _request(self, body: bytes | None) -> UpstreamRequest:
        return UpstreamRequest(
            self._method,
            self._target.origin,
            self._path,
            self._block,
            body,
            timeouts=self._timeouts,
            deadline=time.monotonic() + LONGEST,
        )


class LiveMirror:
    """Sends copies of a route's requests to an upstream.

    At most ``limit`` are under way at once in a worker, those whose bodies are still coming included; what is beyond that is
    dropped and counted, and so is what has a longer body than ``max_body``. A copy is sent once, takes no place of the
    upstream's ``concurrency``, and says nothing to its breaker.
    """

    __slots__ = ("_tally", "described", "upstream")

    def __init__(self, described: Mirror, upstream: LiveUpstream, tally: Tally) -> None:
        self.described = described
        self.upstream = upstream
        self._tally = tally

    def begin(self, ctx: Context, choice: UpstreamChoice, path: str, block: Block) -> Copy | None:
        """Take a copy of a request; None: it gets none, or one without waiting for a body is under way already.

        :param path: without the prefix of the upstream that it is for.
        :raises ValueError: it is none that can be sent.
        """
        if random.random() >= self.described.share:  # noqa: S311 - no secret
            return None
        body = ctx.request.body
        if (body.length or 0) > self.described.max_body:
            self._count("body")
            return None
        if self.upstream.copies >= self.described.limit:
            self._count("limit")
            return None
        try:
            target = self.upstream.pick(ctx)
        except ServiceUnavailable:
            self._count("target")
            return None
        where = (path if choice.replaced else target.prefix + path).encode("latin-1")
        copy = Copy(self, target, ctx.request.method, where, choice.timeout, block(target))
        self.upstream.copies += 1
        if body.length == 0 or body.replayable(self.described.max_body) is not None:
            copy.finish(body)
            return None
        copy.watch(body)
        return copy

    def send(self, target: LiveTarget, request: UpstreamRequest) -> None:
        """Send a copy that was begun, beside everything else."""
        self._tally.add("mirrored")
        gevent.spawn(self._exchange, target, request)

    def drop(self, reason: str) -> None:
        """Give up a copy that was begun."""
        self.upstream.copies -= 1
        self._count(reason)

    def _exchange(self, target: LiveTarget, request: UpstreamRequest) -> None:
        target.active += 1
        try:
            raw = self.upstream.sender.exchange(request)
            try:
                left = _DRAINED
                for chunk in raw.stream():
                    left -= len(chunk)
                    if left < 0:
                        break
            finally:
                raw.close()
        except Failure:
            self._count("failed")
        except Exception:  # a copy harms nobody
            self._count("failed")
            log.exception("mirror_failed upstream=%s", self.upstream.name)
        finally:
            target.active -= 1
            self.upstream.copies -= 1

    def _count(self, reason: str) -> None:
        self._tally.add("mirror_dropped", reason)
