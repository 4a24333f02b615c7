"""What the soak sees of the workers from outside: memory, descriptors and sockets by state, from Linux's ``/proc``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import redis

_STATES = {"01": "ESTABLISHED", "06": "TIME_WAIT", "08": "CLOSE_WAIT", "0A": "LISTEN"}
_PAGE = os.sysconf("SC_PAGE_SIZE")

#: Keys that have no lifetime by design; every other must have one.
LASTING = ("routes", "revision", "history", "access_log", "audit", "tokens")


class Socket(NamedTuple):
    """A TCP socket of the machine."""

    local: int
    remote: int
    state: str


@dataclass(slots=True)
class Sample:
    """One worker at one time; what only the worker knows is of its last probe, None before the first.

    :ivar at: seconds since the start of the run.
    :ivar rss: bytes.
    :ivar files: descriptors that are no sockets.
    :ivar unattached: sockets that the kernel has done with, but that are still open here.
    :ivar close_wait: age in seconds of the oldest connection that the other side has closed; 0: there is none.
    :ivar greenlets: as ``gc`` finds them; so are snapshots and configs (plugin configurations) and objects;
        blocks of memory as Python counts them.
    """

    at: float
    pid: int
    rss: int
    descriptors: int
    files: int
    clients: int
    upstream: int
    unattached: int
    close_wait: float
    greenlets: int | None = None
    snapshots: int | None = None
    configs: int | None = None
    upstreams: int | None = None
    objects: int | None = None
    blocks: int | None = None


@dataclass(slots=True)
class StoreSample:
    """Redis at one time, and the gateway's log; ``lasting``: keys without a lifetime that should have one."""

    at: float
    clients: int
    keys: int
    lasting: list[str]
    log: int


class Sampler:
    """Looks at workers.

    :param port: of the gateway.
    :param upstream_ports: of the services.
    :param probes: the folder into which the workers' probe plugin writes.
    """

    def __init__(self, port: int, upstream_ports: set[int], probes: Path) -> None:
        self._port, self._upstream_ports, self._probes = port, upstream_ports, probes
        self._closing: dict[str, float] = {}  # since when a socket is in CLOSE_WAIT, by inode

    def look(self, at: float, pids: list[int]) -> Iterator[Sample]:
        """Yield a sample of each worker that still lives."""
        table = tcp_sockets()
        attached = {*table, *unix_sockets()}
        closing = {inode for inode, sock in table.items() if sock.state == "CLOSE_WAIT"}
        self._closing = {inode: self._closing.get(inode, at) for inode in closing}
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield self._sample(at, pid, table, attached)

    def _sample(self, at: float, pid: int, table: dict[str, Socket], attached: set[str]) -> Sample:
        links = descriptors(pid)
        inodes = [link[8:-1] for link in links if link.startswith("socket:[")]
        own = [table[inode] for inode in inodes if inode in table]
        waiting = [at - self._closing[inode] for inode in inodes if inode in self._closing]
        return Sample(
            at=round(at, 1),
            pid=pid,
            rss=int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE,
            descriptors=len(links),
            files=len(links) - len(inodes),
            clients=sum(sock.local == self._port and sock.state == "ESTABLISHED" for sock in own),
            upstream=sum(sock.remote in self._upstream_ports for sock in own),
            unattached=sum(inode not in attached for inode in inodes),
            close_wait=max(waiting, default=0.0),
            **self._probed(pid),
        )

    def probed_at(self, pid: int) -> float:
        """When a worker's probe looked last, in seconds since 1970; 0.0 if never."""
        try:
            return (self._probes / f"{pid}.json").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _probed(self, pid: int) -> dict[str, Any]:
        try:
            return dict(json.loads((self._probes / f"{pid}.json").read_text()))
        except (OSError, ValueError):
            return {}


def descriptors(pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed between the two calls
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def tcp_sockets() -> dict[str, Socket]:
    """Return the machine's TCP sockets by inode."""
    found = {}
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(name).read_text().splitlines()[1:]:
                local, remote, state, inode = (line.split()[i] for i in (1, 2, 3, 9))
                ports = (int(address.rpartition(":")[2], 16) for address in (local, remote))
                found[inode] = Socket(*ports, _STATES.get(state, state))
    return found


def unix_sockets() -> set[str]:
    return {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}


def children(pid: int) -> list[int]:
    """The workers of a gunicorn master."""
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def look_at_store(at: float, client: redis.Redis, log: Path) -> StoreSample:
    """Count clients and keys.

    :raises redis.RedisError: it is away.
    """
    keys = list(client.scan_iter("*", count=1000))
    lasting = [key for key in keys if client.ttl(key) == -1 and key.partition(":")[2] not in LASTING]
    return StoreSample(round(at, 1), len(client.client_list()), len(keys), lasting, log.stat().st_size)


def as_dicts(samples: list[Any]) -> list[dict[str, Any]]:
    return [asdict(sample) for sample in samples]
