"""What every worker of a master runs is imported once, by the master: each then starts in less time, and they share that memory.

Modules only. The app is made in each worker, after the fork, and so is what it starts: gunicorn's ``preload_app`` would make it
before. Plugins of other packages are imported in the workers, too: one may crash, and SIGHUP is to pick up another.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from importlib import import_module
from importlib.metadata import distribution

APP = "gwproxy.wsgi:application"


@lru_cache(maxsize=1)
def preload(app_uri: str | None) -> None:
    """Import, in the master and once, what workers that serve ``app_uri`` need; nothing if it is not the gateway's own.

    What fails is left to the workers, which fail too and say why: it must not end the master.
    """
    if app_uri != APP:
        return
    with contextlib.suppress(Exception):
        import_module("gwproxy.app")
        for point in distribution("gwproxy").entry_points.select(group="gwproxy"):
            import_module(point.module)
