"""The gunicorn worker: from a client's connection to a WSGI call, and back.

::

    worker         the process: accepts, drains, stops
    connection     one client: request after request, until either side ends it
    proxy_protocol who it is, behind a balancer
    reader         its bytes, every wait bounded
    quick          head: of plain requests, by lines that are remembered
    request        head: of all others, by gunicorn's parser and what a gateway adds to it (fields)
    environ        what the app gets
    body           wsgi.input
    response       what the client gets

``worker_class = "gwproxy.worker.GatewayWorker"``, in a ``gunicorn.conf.py`` that begins with gevent's monkey patch.
"""

from gwproxy.worker.worker import GatewayWorker

__all__ = ["GatewayWorker"]
