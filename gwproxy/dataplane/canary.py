"""A canary: a second snapshot that serves a share of the clients, beside the one that serves all others."""

from __future__ import annotations

from bisect import bisect_left
from zlib import crc32

from gwproxy.context import Context, Outcome
from gwproxy.dataplane.snapshot import Snapshot
from gwproxy.messages import Request

#: Upper bounds of the latency buckets in seconds, four an octave: what is told of them is right to a tenth. One more bucket follows.
BOUNDS = tuple(0.0005 * 2 ** (step / 4) for step in range(72))

_HASHES = 1 << 32


class Side:
    """What one of the two snapshots has answered in this worker: counters that only grow.

    :ivar server_errors: responses of 500 and more.
    :ivar client_errors: responses of 400 to 499.
    :ivar failures: requests that went on although a hook had failed: its entry ignores that.
    :ivar latencies: requests by :data:`BOUNDS`, from head to last byte; without upgraded connections, which last as long as they like.
    """

    __slots__ = ("client_errors", "failures", "latencies", "requests", "server_errors")

    def __init__(self) -> None:
        self.requests = 0
        self.client_errors = 0
        self.server_errors = 0
        self.failures = 0
        self.latencies = [0] * (len(BOUNDS) + 1)

    def count(self, outcome: Outcome) -> None:
        """Count a request that is over."""
        self.requests += 1
        status = outcome.status
        if status >= 500:
            self.server_errors += 1
        elif status >= 400:
            self.client_errors += 1
        if status != 101:
            self.latencies[bisect_left(BOUNDS, outcome.duration)] += 1

    def counts(self) -> dict[str, int]:
        """Return what was counted, by name: ``requests``, ``4xx``, ``5xx``, ``failures``, and ``b0`` and so on; nothing that is 0."""
        found = {"requests": self.requests, "4xx": self.client_errors, "5xx": self.server_errors, "failures": self.failures}
        found |= {f"b{bucket}": count for bucket, count in enumerate(self.latencies)}
        return {name: count for name, count in found.items() if count}


class Canary:
    """Decides which snapshot serves a client, and counts what both answer.

    A client stays on its side, on every worker of every gateway, as long as its address and the canary are the same: the hash of
    the two is compared with the share. With a greater share, clients are added and none is taken away. Another canary picks others.

    :ivar snapshot: the candidate's.
    :ivar live: what the live snapshot has answered since the canary began in this worker.
    :ivar candidate: what the candidate's has answered.
    """

    __slots__ = ("_salt", "_threshold", "candidate", "id", "live", "share", "snapshot")

    def __init__(self, ident: str, snapshot: Snapshot, share: float) -> None:
        """:param share: percent of the clients that the candidate serves, 0 to 100."""
        self.id = ident
        self.snapshot = snapshot
        self._salt = crc32(ident.encode())
        self.live = Side()
        self.candidate = Side()
        self.resize(share)

    def resize(self, share: float) -> None:
        """Serve another share of the clients from now on."""
        self.share = share
        self._threshold = round(_HASHES * share / 100)

    def serves(self, client: str) -> bool:
        """Whether the candidate serves the client of this address."""
        # A CRC is linear: of addresses in a row, or of another canary, it tells what the next one is. Multiplying undoes that.
        mixed = (crc32(client.encode()) ^ self._salt) * 0x9E3779B1 & 0xFFFFFFFF
        return ((mixed ^ mixed >> 15) * 0x85EBCA77 & 0xFFFFFFFF) < self._threshold

    def snapshot_for(self, request: Request, live: Snapshot | None) -> Snapshot | None:
        """Return what is to serve this request.

        :param live: the live snapshot; None if there is none.
        """
        return self.snapshot if self.serves(request.remote_addr) else live

    def begin(self, ctx: Context, live: Snapshot | None) -> Snapshot | None:
        """Return what is to serve this request, and count it on that side once it is over."""
        tried = self.serves(ctx.request.remote_addr)
        ctx._side = side = self.candidate if tried else self.live
        ctx.on_finish(side.count)
        return self.snapshot if tried else live
