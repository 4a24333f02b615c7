"""The PROXY protocol, version 2: who the client is, told by the load balancer in front.

The header comes first on a connection, before TLS. Source: haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.2.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from time import monotonic
from typing import Any

from gwproxy.settings import Network

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_HEADER = struct.Struct(">12sBBH")
_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the high half
_TCP4, _TCP6 = 0x11, 0x21
_LONGEST = 2048  # addresses take 36 bytes at most, the rest is TLVs


def plain_address(text: str) -> str:
    """Return an address as it is compared: an IPv4 one in IPv6's clothes as IPv4."""
    return text[7:] if text.startswith("::ffff:") and "." in text else text


def is_from(address: str, networks: Sequence[Network]) -> bool:
    """Whether ``address`` lies in one of ``networks``; what is no address (a UNIX socket's peer) does not."""
    try:
        found = ip_address(plain_address(address))
    except ValueError:
        return False
    return any(found in network for network in networks)


def read_header(receive: Callable[[int], bytes]) -> tuple[str, int] | None:
    """Read one header; return the client's address and port, or None if the balancer itself speaks (LOCAL).

    :param receive: returns exactly as many bytes as asked for.
    :raises ValueError: it is no header, or none of a TCP client with its address.
    """
    signature, command, family, length = _HEADER.unpack(receive(_HEADER.size))
    if signature != SIGNATURE:
        raise ValueError("no PROXY v2 signature")
    if length > _LONGEST:
        raise ValueError("PROXY header too long")
    rest = receive(length)
    if command == _LOCAL:
        return None
    if command != _PROXY:
        raise ValueError("neither LOCAL nor PROXY")
    if family == _TCP4 and length >= 12:
        return socket.inet_ntop(socket.AF_INET, rest[:4]), int.from_bytes(rest[8:10])
    if family == _TCP6 and length >= 36:
        return plain_address(socket.inet_ntop(socket.AF_INET6, rest[:16])), int.from_bytes(rest[32:34])
    raise ValueError("no TCP addresses")


def receiver(sock: Any, deadline: float) -> Callable[[int], bytes]:
    """Return a function that receives exactly n bytes from ``sock``, and not one more: TLS may follow.

    It raises TimeoutError after ``deadline`` (:func:`time.monotonic`) and ValueError if the connection ends before.
    """

    def receive(size: int) -> bytes:
        data = b""
        while len(data) < size:
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            more = sock.recv(size - len(data))
            if not more:
                raise ValueError("ended within the PROXY header")
            data += more
        return data

    return receive
