"""The WSGI environment: what the app is told of a request.

Beside the keys of PEP 3333, and ``RAW_URI`` (the target as sent):

==========================  ==========================================================================================
``gwproxy.fields``          the header's :data:`entries <gwproxy.http.forwarding.Entry>`: order, case, repetitions as sent
``gwproxy.start_response``  as ``start_response``, for a status as a number and :class:`~gwproxy.http.headers.Headers`
``gwproxy.headers_dropped`` how many header lines were dropped for a ``_`` in their name; absent if none
``gwproxy.started``         when the head was complete, by :func:`time.monotonic`
``gwproxy.socket``          the client's socket; ``gunicorn.socket`` is the same
``gwproxy.client_gone``     a function: whether the client has closed its side. Consumes nothing; True for a client that
                            only ended its sending side, False while pipelined bytes wait
``gwproxy.hijack``          a function: ``(socket, bytes read already)``. The connection is then the app's until its
                            iterable ends; nothing else is written, and it is closed after
==========================  ==========================================================================================
"""

from __future__ import annotations

import io
from collections.abc import Callable
from time import monotonic
from typing import Any

from gunicorn.http.wsgi import base_environ
from gunicorn.util import unquote_to_wsgi_str

from gwproxy.http.headers import Headers
from gwproxy.worker.body import Body
from gwproxy.worker.quick import QuickHead
from gwproxy.worker.request import Request


def listener_environ(cfg: Any, address: object) -> dict[str, Any]:
    """Return what is the same for all requests of one listener.

    :param address: the listener's own: host and port, or the path of a UNIX socket.
    """
    host, port = (str(address[0]), str(address[1])) if isinstance(address, tuple) else ("localhost", "80")
    base: dict[str, Any] = base_environ(cfg)
    return base | {
        "wsgi.multithread": True,
        "wsgi.url_scheme": "https" if cfg.is_ssl else "http",
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SCRIPT_NAME": "",
    }


def request_environ(
    base: dict[str, Any], request: Request | QuickHead, body: Body | None, start: Callable[[int, Headers], None]
) -> dict[str, Any]:
    """Return the environment of one request, on top of ``base``, which holds what the connection knows."""
    environ = base | request.folded
    environ["REQUEST_METHOD"] = request.method
    environ["RAW_URI"] = request.uri
    environ["PATH_INFO"] = unquote_to_wsgi_str(request.path) if "%" in request.path else request.path
    environ["QUERY_STRING"] = request.query
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if request.http11 else "HTTP/1.0"
    environ["wsgi.input"] = io.BytesIO() if body is None else body
    environ["gwproxy.fields"] = request.entries
    environ["gwproxy.start_response"] = start
    environ["gwproxy.started"] = monotonic()
    if request.dropped:
        environ["gwproxy.headers_dropped"] = request.dropped
    return environ
