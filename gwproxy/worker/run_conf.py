"""gunicorn's settings under ``gwproxy run``: the packaged ones, then the user's file.

The file is named by ``GWPROXY_GUNICORN_CONF``; it need not import the packaged settings, and may.
"""

import os as _os
import runpy as _runpy

from gwproxy.worker.gunicorn_conf import *  # noqa: F403 - first of all: it patches

if _path := _os.environ.get("GWPROXY_GUNICORN_CONF"):
    globals().update({name: value for name, value in _runpy.run_path(_path).items() if not name.startswith("_")})
