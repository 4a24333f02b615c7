"""One client's connection: its requests one after the other, until either side ends it."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import gevent
from gevent.socket import socket as GeventSocket  # noqa: N812 - a class

from gwproxy.errors import ClientGone, HttpError, RequestTimeout
from gwproxy.settings import Settings
from gwproxy.stream import stream_of, take_turns
from gwproxy.tally import Tally
from gwproxy.worker import proxy_protocol
from gwproxy.worker.body import Body
from gwproxy.worker.environ import Environs
from gwproxy.worker.quick import QuickHead, QuickHeads
from gwproxy.worker.reader import ClientReader
from gwproxy.worker.refusals import RefusalLog, logger
from gwproxy.worker.request import ParserLimits, Request, read_request
from gwproxy.worker.response import Response, refusal
from gwproxy.worker.standing import Standing

#: Seconds and bytes for a client that still sends to read why it was refused.
LINGER_SECONDS = 2.0
LINGER_BYTES = 8 * 1024 * 1024

_RESET = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


def _send_nothing(data: bytes) -> None:
    raise ClientGone("closed")


def _keep_nothing() -> bool:
    return False


def _over() -> Response:
    """Return what a closed connection has for a response: one that has begun, so that there can be no other."""
    response = Response(_send_nothing, head_only=False, http11=True, may_keep=_keep_nothing)
    response.begun = True
    return response


@dataclass(slots=True)
class Service:
    """What all connections of a worker share.

    :ivar keepalive: seconds a connection may be idle; 0: every response closes its connection.
    :ivar quick: parses the heads of plain requests; None: gunicorn's parser gets all.
    :ivar tls: None for plain connections.
    :ivar standing: whether the worker will serve further requests, and how many.
    :ivar is_crowded: asked where :attr:`standing` says so.
    :ivar worn_out: called when a request was its last.
    """

    app: Callable[..., Iterable[bytes]]
    settings: Settings
    limits: ParserLimits
    keepalive: float
    quick: QuickHeads | None
    tls: ssl.SSLContext | None
    tls_ragged_eofs: bool
    standing: Standing
    is_crowded: Callable[[], bool]
    worn_out: Callable[[], None]
    tally: Tally = field(default_factory=Tally)
    refusals: RefusalLog = field(default_factory=RefusalLog)


class Connection:
    """One client's connection, in the greenlet that runs :meth:`serve`.

    :param base: the environment keys of its listener.
    :param peer: the address of the other end, as ``accept`` gave it.

    :ivar fresh: whether no request has come on it yet.
    """

    __slots__ = (
        "_base",
        "_body",
        "_environs",
        "_linger",
        "_may_keep_it",
        "_patience",
        "_peer",
        "_reader",
        "_request",
        "_reset",
        "_response",
        "_send_it",
        "_service",
        "_sock",
        "_stream",
        "fresh",
    )

    _request: Request | QuickHead
    _response: Response

    def __init__(self, service: Service, base: dict[str, Any], sock: Any, peer: object) -> None:
        self._service = service
        self._base = base
        self._sock = sock
        self._peer: tuple[str, int] = (proxy_protocol.plain_address(str(peer[0])), int(peer[1])) if isinstance(peer, tuple) else ("", 0)
        self._stream = stream_of(sock)
        self._reader = ClientReader(self._stream, service.settings, service.keepalive or service.settings.header_timeout)
        self._patience: float = service.settings.write_timeout
        self._body: Body | None = None
        self._linger = self._reset = False
        self.fresh = True
        self._environs = Environs(base)
        self._send_it: Callable[[bytes], None] = self._send  # PERF: bound once, for all responses
        self._may_keep_it: Callable[[], bool] = self._may_keep

    @property
    def idle_since(self) -> float | None:
        """When it became idle (:func:`time.monotonic`); None while a request is under way."""
        return self._reader.idle_since

    def wake(self) -> None:
        """End the wait of an idle connection, from another greenlet; a request that has come already is still served."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._sock.fileno())) as twin:
            twin.shutdown(socket.SHUT_RD)  # through a twin: gevent's own would throw into the waiting greenlet

    def serve(self) -> None:
        """Serve until the connection ends, and close it. Raises nothing but what ends the greenlet."""
        try:
            if self._open():
                while self._serve_one():
                    if self._reader.held:
                        take_turns()  # a client that pipelines must not keep all others waiting
        except (OSError, ClientGone) as error:
            logger.debug("connection_lost client=%s reason=%s", self._peer[0], type(error).__name__)
        except Exception:
            logger.exception("connection_failed client=%s", self._peer[0])
        finally:
            self._close()

    # ---- before the first request

    def _open(self) -> bool:
        """Read the PROXY header, if one has to come, and do the TLS handshake; False: the connection is refused."""
        settings = self._service.settings
        deadline = monotonic() + settings.header_timeout
        if settings.proxy_protocol == "v2" and not self._read_proxy_header(deadline):
            return False
        if self._service.tls is not None and not self._shake_hands(self._service.tls, deadline):
            return False
        address, port = self._peer
        known = self._base | {
            "REMOTE_ADDR": address,
            "REMOTE_PORT": str(port),
            "gwproxy.socket": self._sock,
            "gunicorn.socket": self._sock,
            "gwproxy.client_gone": self.client_gone,
            "gwproxy.hijack": self.hijack,
        }
        self._environs = Environs(known)
        return True

    def _read_proxy_header(self, deadline: float) -> bool:
        try:
            if not proxy_protocol.is_from(self._peer[0], self._service.settings.proxy_from):
                raise ValueError("peer not in GWPROXY_PROXY_FROM")
            self._peer = proxy_protocol.read_header(proxy_protocol.receiver(self._sock, deadline)) or self._peer
        except (ValueError, TimeoutError) as error:
            self._service.refusals.write("proxy_header_refused", self._peer[0], 0, str(error) or "too slow")
            return False
        return True

    def _shake_hands(self, context: ssl.SSLContext, deadline: float) -> bool:
        self._reader.idle_since = None
        try:
            with gevent.Timeout(max(deadline - monotonic(), 0.001), TimeoutError):
                self._stream.close()
                self._sock = context.wrap_socket(
                    self._sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=self._service.tls_ragged_eofs
                )
                self._sock.do_handshake()
            self._stream = self._reader.stream = stream_of(self._sock)
        except OSError as error:
            logger.debug("handshake_failed client=%s reason=%s", self._peer[0], type(error).__name__)
            return False
        return True

    # ---- one request

    def _serve_one(self) -> bool:
        """Serve the next request; False: the connection ends."""
        try:
            request = self._next_head()
        except TimeoutError:
            if self._reader.begun:
                self._refuse_head(RequestTimeout("head"))
            return False
        except HttpError as error:
            self._refuse_head(error)
            return False
        if request is None:
            return False
        standing = self._service.standing
        standing.left -= 1
        if standing.left <= 0:
            self._service.worn_out()
        if request.dropped:
            self._service.tally.add("headers_dropped", count=request.dropped)
        self.fresh = False
        self._request = request
        self._body = None if request.length == 0 else Body(request, self._reader, self._send_continue)
        response = self._response = Response(
            self._send_it, head_only=request.method == "HEAD", http11=request.http11, may_keep=self._may_keep_it
        )
        self._answer(self._environs.make(request, self._body, response.start_checked, self._reader.received))
        return self._end_exchange()

    def _next_head(self) -> Request | QuickHead | None:
        """Read the next request's head; None if the client sends no other. Raises as :func:`read_request`."""
        service, reader = self._service, self._reader
        reader.expect_head()
        if service.quick is not None:
            held = reader.held or reader.chunk()
            reader.held = held
            if not held:
                return None
            # PERF: not find(), which costs compiled code twice as much, and the slices beside.
            first, end, rest = held.partition(b"\r\n\r\n")
            if end and (head := service.quick.parse(first, len(first), self._environs.block)) is not None:
                reader.held = rest
                return head
        return read_request(service.limits, reader, self._peer)

    def _refuse_head(self, error: HttpError) -> None:
        self._service.tally.add("heads_refused", str(error.status))
        self._service.refusals.write("request_refused", self._peer[0], error.status, str(error))
        self._linger = True
        self._send(refusal(error.status))

    def _answer(self, environ: dict[str, Any]) -> None:
        """Call the app and send what it gives; whatever it raises costs this request only."""
        response = self._response
        chunks: Iterable[bytes] = ()
        try:
            try:
                chunks = self._service.app(environ, response.start)
                response.pump(chunks)
            finally:
                close = getattr(chunks, "close", None)
                if close is not None:
                    close()
        except (ClientGone, gevent.GreenletExit) as error:
            logger.debug("request_cut client=%s reason=%s", self._peer[0], type(error).__name__)
        except HttpError as error:
            self._service.refusals.write("request_refused", self._peer[0], error.status, str(error))
            self._send_refusal(error.status, error.headers)
        except BaseException:  # SystemExit and Timeout too: one request's must not end the others
            logger.exception("app_failed method=%s path=%r", self._request.method, environ["PATH_INFO"])
            self._send_refusal(500)

    def _end_exchange(self) -> bool:
        response, body = self._response, self._body
        if response.detached:
            return False
        if not response.complete:
            self._reset |= not response.framed
            return False
        if response.keep and (body is None or body.drain()):
            return True
        self._linger = (body is not None and not body.ended) or bool(self._reader.held)
        return False

    def _may_keep(self) -> bool:
        service = self._service
        standing = service.standing
        if self._request.close or service.keepalive <= 0 or not standing.alive or (standing.crowded and service.is_crowded()):
            return False
        return self._body is None or self._body.drainable

    def _may_refuse(self) -> bool:
        return not self._response.begun and not self._response.detached

    def _send_refusal(self, status: int, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Answer for the app, if it has not begun to; the connection ends in either case."""
        if self._may_refuse():
            self._linger = True
            self._send(refusal(status, headers, bodyless=self._request.method == "HEAD"))

    # ---- what the app may call

    def client_gone(self) -> bool:
        """Whether the client has closed its side; nothing is consumed."""
        sock = self._sock
        limit = sock.gettimeout()
        sock.settimeout(0.0)
        try:
            # The base class: below TLS, whose own recv knows no flags.
            return not GeventSocket.recv(sock, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            sock.settimeout(limit)

    def hijack(self) -> tuple[Any, bytes]:
        """Hand the connection over: the socket, without a timeout, and what was read of it beyond this request.

        :raises RuntimeError: the response has begun.
        """
        if not self._may_refuse():
            raise RuntimeError("the response has begun")
        self._response.detached = True
        self._stream.close()
        self._sock.settimeout(None)
        return self._sock, self._reader.take_buffered()

    # ---- the socket

    def _send_continue(self) -> None:
        if self._may_refuse():
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _send(self, data: bytes) -> None:
        """Send all of ``data``.

        :raises ClientGone: the connection is broken, or the client read nothing for ``write_timeout`` seconds.
        """
        stream, patience = self._stream, self._patience
        try:
            sent = stream.send(data, patience)
            if sent < len(data):
                view = memoryview(data)
                while sent < len(data):
                    sent += stream.send(view[sent:], patience)
        except TimeoutError:
            self._reset = True  # else the kernel keeps megabytes for a client that does not read
            raise ClientGone("write timeout") from None
        except OSError as error:
            raise ClientGone(type(error).__name__) from None

    def _close(self) -> None:
        try:
            self._stream.close()
            with contextlib.suppress(OSError):
                if self._reset:
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                elif self._linger:
                    self._linger_on()
        finally:  # the greenlet may be killed while it lingers
            self._let_go()
            self._sock.close()

    def _let_go(self) -> None:
        """Forget what refers back to this: it is freed now, and not by a collection, which a busy worker puts off."""
        self._send_it, self._may_keep_it = _send_nothing, _keep_nothing
        self._environs = Environs(self._base)
        self._body, self._response = None, _over()

    def _linger_on(self) -> None:
        """Wait for the client to close: closing with bytes unread would reset away the response before it is read."""
        deadline = monotonic() + LINGER_SECONDS
        room = LINGER_BYTES
        GeventSocket.shutdown(self._sock, socket.SHUT_WR)
        while room > 0 and (left := deadline - monotonic()) > 0:
            self._sock.settimeout(left)
            data = GeventSocket.recv(self._sock, 64 * 1024)
            if not data:
                return
            room -= len(data)
            take_turns()
