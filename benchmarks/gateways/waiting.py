"""A service that takes half a second for ``/slow`` and nothing for everything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

SECONDS = 0.5


def application(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SECONDS)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
