"""gunicorn's settings under ``gwproxy run``: the packaged ones, then the user's file.

``run`` gives gunicorn the path of this file, not its name as a module: a file is executed again at every SIGHUP. The
environment tells it ``GWPROXY_RUN_BIND``, where to listen unless the user's file or a flag says otherwise,
``GWPROXY_RUN_CONF``, the user's file (it need not import the packaged settings, and may), and ``GWPROXY_RUN_FD``, where to
say what is listened on.
"""

import json as _json
import os as _os
import runpy as _runpy
import sys as _sys
import traceback as _traceback
from typing import Any as _Any

from gwproxy.worker.gunicorn_conf import *  # noqa: F403 - before all others: it patches


def _load(path: str) -> dict[str, _Any]:
    """Return what a settings file sets; one that fails ends the start in one line."""
    try:
        return {name: value for name, value in _runpy.run_path(path).items() if not name.startswith("_")}
    except Exception as error:
        lines = [frame.lineno for frame in _traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        print(f"Error: {path}{f':{line}' if line else ''}: {type(error).__name__}: {error}", file=_sys.stderr)
        _sys.exit(1)


bind = _os.environ["GWPROXY_RUN_BIND"]
loglevel = (_os.environ.get("GWPROXY_LOG_LEVEL") or "info").lower()
if _path := _os.environ.get("GWPROXY_RUN_CONF"):
    globals().update(_load(_path))
_theirs: _Any = globals().get("when_ready")


def when_ready(server: _Any) -> None:
    """Tell ``run`` what is listened on, before the first worker is forked."""
    if _theirs is not None:
        _theirs(server)
    if handle := _os.environ.pop("GWPROXY_RUN_FD", ""):
        listening = {"urls": [str(listener) for listener in server.LISTENERS], "workers": server.cfg.workers}
        with open(int(handle), "w") as pipe:
            pipe.write(_json.dumps(listening))
