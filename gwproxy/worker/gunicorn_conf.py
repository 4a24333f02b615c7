"""The settings gwproxy runs gunicorn with: safe at an edge as they are.

A ``gunicorn.conf.py`` of your own begins with the monkey patch, imports these, then changes what it wants::

    from gevent import monkey; monkey.patch_all()
    from gwproxy.worker.gunicorn_conf import *

Flags of the command line win over all of it. Bad settings end the start here, in one line, before any worker runs.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

# Only now: what imports ssl before the patch raises RecursionError in the workers.
import os  # noqa: E402
import sys  # noqa: E402

from gwproxy.errors import CommandFailed  # noqa: E402
from gwproxy.settings import Settings  # noqa: E402

__all__ = [
    "accesslog",
    "backlog",
    "control_socket_disable",
    "forwarded_allow_ips",
    "forwarder_headers",
    "graceful_timeout",
    "header_map",
    "http_parser",
    "keepalive",
    "limit_request_field_size",
    "limit_request_fields",
    "limit_request_line",
    "max_requests",
    "preload_app",
    "reuse_port",
    "secure_scheme_headers",
    "timeout",
    "worker_class",
    "worker_connections",
    "workers",
]


try:
    Settings.from_environment()
except CommandFailed as error:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(1)

# One a processor, two at least: one serves while the other restarts. Gunicorn has refused a WEB_CONCURRENCY that is no number.
workers = int(os.environ.get("WEB_CONCURRENCY") or 0) or max(2, len(os.sched_getaffinity(0)))
worker_class = "gwproxy.worker.GatewayWorker"

# Seconds. The deadlines for heads, bodies and responses are the gateway's own: GWPROXY_HEADER_TIMEOUT and others.
keepalive = 15
timeout = 30  # for a worker whose loop is blocked, not for slow requests
graceful_timeout = 30  # no less than the longest request that should survive a restart

# Connections. At worker_connections (a worker) idle ones make room; if none is idle, new ones wait in the backlog. Twice
# the requests of GWPROXY_MAX_IN_FLIGHT: a worker with too much to do says so, instead of leaving clients to wait unheard.
worker_connections = 2000
backlog = 512
reuse_port = False  # one shared listener: a worker that stops loses no connection waiting to be accepted
max_requests = 0

# Heads. 414 and 431 beyond these.
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
http_parser = "python"
header_map = "drop"  # names with "_" are dropped, never mapped onto "-"

# Gunicorn trusts no header about the client: the gateway decides, by GWPROXY_TRUSTED_PROXIES.
forwarded_allow_ips = ""
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}

preload_app = False
control_socket_disable = True
accesslog = None  # the access log is a plugin's
