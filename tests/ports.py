"""Ports for the servers that tests start, and for those that nobody is to answer at."""

from __future__ import annotations

import itertools
import os
import random
import socket

#: Below what the kernel gives to clients and to who asks for any port: else one that was free a moment ago is somebody's when it is used.
FIRST, LAST = 10_000, 32_000


def _turns() -> itertools.cycle[int]:
    """All ports of this process, from a random one on; processes that share one run of the tests have different ones."""
    number, count = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = range(FIRST + number, LAST, count)
    begin = random.randrange(len(own))
    return itertools.cycle([*own[begin:], *own[:begin]])


_ports = _turns()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens at, and that nobody else is told of for a long time."""
    for port in _ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("there are always ports")
