"""The gateway in production: ``gunicorn -c gunicorn.conf.py gwproxy.wsgi:application``.

After a change, ``gunicorn --check-config -c gunicorn.conf.py gwproxy.wsgi:application`` before ``kill -HUP``: a master
that cannot read its configuration exits.
"""

from gevent import monkey

monkey.patch_all()  # first, before anything imports ssl

from gwproxy.worker.gunicorn_conf import *  # noqa: E402, F403

# Where to listen. Several: ["0.0.0.0:8080", "[::]:8080"].
# bind = "0.0.0.0:8080"

# Processes. Default: WEB_CONCURRENCY, else one a processor, two at least.
# workers = 4

# Seconds an idle client connection is kept. Above the idle time of a load balancer in front.
# keepalive = 75

# Seconds a stopping worker waits for its requests. As long as the longest that should survive a restart.
# graceful_timeout = 120

# Connections a worker holds at once: twice GWPROXY_MAX_IN_FLIGHT, so that overload is answered 503.
# worker_connections = 4000

# Replace each worker after so many requests, not all at the same time.
# max_requests = 100_000
# max_requests_jitter = 20_000

# TLS at the gateway itself.
# certfile = "/etc/gwproxy/tls.crt"
# keyfile = "/etc/gwproxy/tls.key"
