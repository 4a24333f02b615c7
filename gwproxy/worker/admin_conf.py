"""gunicorn's settings for the admin listener: those of the gateway, for one process that few people ask.

``gwproxy admin`` and ``gwproxy run`` open the listener themselves, so that they can say why it cannot be, and hand it over
by ``GWPROXY_ADMIN_FD``.
"""

import os as _os

from gwproxy.worker.gunicorn_conf import *  # noqa: F403 - before all others: it patches

bind = f"fd://{_os.environ['GWPROXY_ADMIN_FD']}"
proc_name = "gwproxy-admin"
workers = 1  # what it remembers of wrong tokens is of one process
worker_connections = 200
backlog = 64
timeout = 60  # reading, checking and comparing the largest configuration takes seconds of a busy machine
graceful_timeout = 10
max_requests = 0
loglevel = "info" if (_os.environ.get("GWPROXY_LOG_LEVEL") or "info").lower() == "debug" else "warning"
