"""The upstream: nginx, which answers faster than any gateway asks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.process import Child, Usage, free_port

ITEM = (
    b'{"id": 7, "name": "Widget", "price": {"amount": 1999, "currency": "EUR"}, "tags": ["new", "blue"], '
    b'"stock": 42, "updated": "2026-11-01T12:00:00Z"}'
).ljust(154)
BLOB = 1 << 20

_CONFIG = """
worker_processes 1;
daemon off;
pid {folder}/upstream.pid;
error_log {folder}/upstream.log error;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  {temporary}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ default_type application/json; return 200 '{item}'; }}
    location = /blob {{ default_type application/octet-stream; alias {folder}/blob; }}
  }}
}}
"""


def temporary(folder: Path) -> str:
    """Return the directives that keep nginx's temporary files in ``folder``."""
    return " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))


class Upstream:
    """One nginx worker: ``/blob`` is 1 MiB, every other path is 154 bytes of JSON."""

    def __init__(self, folder: Path, cores: Iterable[int]) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        self._log = folder / "upstream.out"
        self._config = folder / "upstream.conf"
        self._config.write_text(_CONFIG.format(folder=folder, port=self.port, item=ITEM.decode(), temporary=temporary(folder)))
        (folder / "blob").write_bytes(bytes(range(256)) * (BLOB // 256))
        self._cores = cores

    def __enter__(self) -> Self:
        self._child = Child(["nginx", "-e", str(self._log), "-c", str(self._config)], self._log, self._cores)
        self._child.listening(self.port)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._child.stop()

    def usage(self) -> Usage:
        """Return what it uses."""
        return self._child.usage()

    def move(self, cores: Iterable[int]) -> None:
        """Let it run on these cores from now on."""
        for pid in self._child.processes():
            os.sched_setaffinity(pid, set(cores))
