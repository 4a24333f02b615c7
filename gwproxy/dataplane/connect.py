"""Make a connection to an upstream: resolve, refuse what is forbidden, connect, TLS."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import gevent
from gevent.monkey import is_module_patched

from gwproxy.dataplane.failures import UpstreamFailed, UpstreamTimedOut
from gwproxy.dataplane.listeners import leads_back
from gwproxy.http.addresses import is_forbidden
from gwproxy.model import TLS


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream listens.

    :ivar host: a name or address as configured, IPv6 without brackets; never taken from a client's bytes.
    :ivar port: 1 to 65535.
    :ivar server_name: whom TLS has to prove it is, where ``host`` is an address found by that name; empty: ``host``.
    :ivar name: all of it: whose connections may be used for it.
    """

    scheme: Literal["http", "https"]
    host: str
    port: int
    server_name: str = ""
    name: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        proven = f" as {self.server_name}" if self.server_name and self.scheme == "https" else ""
        object.__setattr__(self, "name", f"{self}{proven}")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def client_context(tls: TLS) -> ssl.SSLContext:
    """Return a context that verifies as ``tls`` says, and offers HTTP/1.1 only.

    :raises OSError: a file of ``tls`` cannot be read, or is not PEM (:class:`ssl.SSLError` is one).
    """
    if tls.verify:
        context = ssl.create_default_context(cafile=tls.ca)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    return context


def connect(origin: Origin, context: ssl.SSLContext | None, until: float) -> socket.socket:
    """Return a connected socket, its TLS handshake done; every address of the host is tried in turn.

    :param context: None for plain HTTP.
    :param until: when to give up, by ``time.monotonic``.
    :raises UpstreamTimedOut: that moment came.
    :raises UpstreamFailed: no address, only forbidden ones, or none that accepts.
    """
    try:
        with _interrupted(until):
            sock = _first(_resolve(origin), until)
            return sock if context is None else _secured(sock, context, origin, until)
    except TimeoutError:
        raise UpstreamTimedOut(f"connecting to {origin} took too long", phase="connect") from None
    except (OSError, ValueError) as error:  # ValueError: a name that neither IDNA nor TLS can express
        raise UpstreamFailed(f"connecting to {origin}: {error}", phase="connect") from error


@contextmanager
def _interrupted(until: float) -> Iterator[None]:
    # The resolver has no timeout of its own, and a handshake's is for each read. In a worker, gevent can interrupt both.
    if is_module_patched("socket"):
        with gevent.Timeout(_left(until), TimeoutError("interrupted")):
            yield
    else:
        yield


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("no time left")
    return left


def _resolve(origin: Origin) -> list[tuple[int, Any]]:
    """Return ``(family, address)`` for each address that may be connected to.

    :raises OSError: there is none.
    """
    found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    # After resolution, and on the very addresses that are used: a name may mean something else the next time.
    allowed: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in found if not is_forbidden(str(address[0]))]
    if not allowed:
        raise OSError("link-local and metadata addresses are forbidden")
    return allowed


def _first(addresses: list[tuple[int, Any]], until: float) -> socket.socket:
    """Return a socket to the first address that accepts; each gets its share of the time left."""
    for remaining in range(len(addresses), 0, -1):
        family, address = addresses[-remaining]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(_left(until) / remaining)
            sock.connect(address)
            if leads_back(sock):
                raise OSError("the gateway's own listener is no upstream")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException as error:
            sock.close()
            if remaining == 1 or not isinstance(error, OSError):
                raise
        else:
            return sock
    raise AssertionError("unreachable: the last address returns or raises")


def _secured(sock: socket.socket, context: ssl.SSLContext, origin: Origin, until: float) -> ssl.SSLSocket:
    """Return the socket within TLS; it is closed if the handshake fails, however it does."""
    try:
        secured = context.wrap_socket(sock, server_hostname=(origin.server_name or origin.host).rstrip("."), do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise
    try:
        secured.settimeout(_left(until))
        secured.do_handshake()
    except BaseException:
        secured.close()
        raise
    return secured
