"""The WSGI environment: what the app is told of a request.

Beside the keys of PEP 3333, and ``RAW_URI`` (the target as sent):

==========================  ==========================================================================================
``gwproxy.fields``          the header's :data:`entries <gwproxy.http.forwarding.Entry>`: order, case, repetitions as sent
``gwproxy.stripped``        the same :class:`sorted out <gwproxy.http.forwarding.Stripped>`, for all requests that come with it: not
                            to be changed; absent if it was not, or None
``gwproxy.start_response``  as ``start_response``, for a status as a number and :class:`~gwproxy.http.headers.Headers`
``gwproxy.headers_dropped`` how many header lines were dropped for a ``_`` in their name; absent if none
``gwproxy.started``         when the last bytes of the head came, by :func:`time.monotonic`
``gwproxy.socket``          the client's socket; ``gunicorn.socket`` is the same
``gwproxy.client_gone``     a function: whether the client has closed its side. Consumes nothing; True for a client that
                            only ended its sending side, False while pipelined bytes wait
``gwproxy.hijack``          a function: ``(socket, bytes read already)``. The connection is then the app's until its
                            iterable ends; nothing else is written, and it is closed after
==========================  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gunicorn.http.wsgi import base_environ
from gunicorn.util import unquote_to_wsgi_str

from gwproxy.http.headers import Headers
from gwproxy.worker.body import NOTHING, Body
from gwproxy.worker.quick import Block, QuickHead
from gwproxy.worker.request import Request

#: Bytes of a header that a connection keeps: 10,000 idle ones take as much of a worker's memory.
LONGEST_KEPT = 2048
# What each request has of its own. PERF: there from the start, so that no copy has to grow.
_PLACES: Final[dict[str, Any]] = dict.fromkeys(
    (
        *("REQUEST_METHOD", "RAW_URI", "PATH_INFO", "QUERY_STRING"),
        *("wsgi.input", "gwproxy.start_response", "gwproxy.started"),
    )
)


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


class Environs:
    """Makes the environments of one connection's requests.

    PERF: whoever sends the same header again, as most do on a connection, gets a copy of what was made of it: a third of the cost.

    :ivar block: the header that the last request came with, if it is kept for the next.

    :param base: what the connection knows.
    """

    __slots__ = ("_base", "_template", "block")

    def __init__(self, base: dict[str, Any]) -> None:
        self._base = base
        self._template: dict[str, Any] = {}
        self.block: Block | None = None

    def make(
        self, request: Request | QuickHead, body: Body | None, start: Callable[[int, Headers], None], started: float
    ) -> dict[str, Any]:
        """Return the environment of one request.

        :param start: ``gwproxy.start_response``.
        :param started: when its last bytes came.
        """
        environ = self._known(request) if isinstance(request, QuickHead) else self._new(request)
        environ["REQUEST_METHOD"] = request.method
        environ["RAW_URI"] = request.uri
        environ["PATH_INFO"] = unquote_to_wsgi_str(request.path) if "%" in request.path else request.path
        environ["QUERY_STRING"] = request.query
        environ["wsgi.input"] = NOTHING if body is None else body
        environ["gwproxy.start_response"] = start
        environ["gwproxy.started"] = started
        return environ

    def _new(self, request: Request) -> dict[str, Any]:
        environ = self._base | request.folded
        environ["SERVER_PROTOCOL"] = "HTTP/1.1" if request.http11 else "HTTP/1.0"
        environ["gwproxy.fields"] = request.entries
        if request.dropped:
            environ["gwproxy.headers_dropped"] = request.dropped
        return environ

    def _known(self, request: QuickHead) -> dict[str, Any]:
        block = request.block
        if block is self.block:
            return self._template.copy()
        template = self._base | block.folded
        template["SERVER_PROTOCOL"] = "HTTP/1.1"
        template["gwproxy.fields"] = block.entries
        template["gwproxy.stripped"] = block.stripped
        if len(block.data) > LONGEST_KEPT:
            self.block = None
            return template
        self.block, self._template = block, template
        template.update(_PLACES)
        return template.copy()
