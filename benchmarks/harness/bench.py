"""The ground a run stands on: cores, a folder, the upstream, a Redis, and how long to measure."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.process import Child, free_port, stop_rest
from harness.upstream import Upstream

HERE = Path(__file__).resolve().parent.parent
TREE = HERE.parent


@dataclass
class Bench:
    """Starts what every job needs, and ends it.

    :ivar seconds: of one run of one gateway.
    :ivar rounds: runs of each gateway, in turns.
    :ivar trees: checkouts of gwproxy to measure, by the name they have in the results.
    :ivar chosen: names of the gateways to measure; empty: all.
    """

    seconds: int = 2
    rounds: int = 5
    trees: dict[str, Path] = field(default_factory=lambda: {"gwproxy": TREE})
    chosen: tuple[str, ...] = ()
    connections: int = 32

    def __post_init__(self) -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # children inherit it
        cores = sorted(os.sched_getaffinity(0))
        self.gateway_cores = {cores[0]}
        self.load_cores = set(cores[1:]) or {cores[0]}
        self._children = ExitStack()

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="gwproxy-bench-"))
        self.folder.chmod(0o755)  # nginx's workers are somebody else
        self.upstream = self._children.enter_context(Upstream(self.folder, self.load_cores))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._children.close()
        stop_rest()
        shutil.rmtree(self.folder, ignore_errors=True)

    def place(self, name: str) -> Path:
        """Return a new folder for files of a gateway."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def wants(self, name: str) -> bool:
        return not self.chosen or name in self.chosen or (name in self.trees and "gwproxy" in self.chosen)

    @contextmanager
    def load_on(self, cores: set[int]) -> Iterator[None]:
        """Let wrk run on these cores meanwhile, and the upstream too."""
        usual = self.load_cores
        self.load_cores = cores
        self.upstream.move(cores)
        try:
            yield
        finally:
            self.load_cores = usual
            self.upstream.move(usual)

    def redis(self, stack: ExitStack) -> int:
        """Start a Redis that keeps nothing on disk, for as long as ``stack`` is open; return its port."""
        port = free_port()
        command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
        child = stack.enter_context(Child(command, self.place("redis") / "redis.log", self.load_cores))
        child.listening(port)
        return port
