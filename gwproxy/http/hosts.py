"""The requested host: one spelling for each, and nothing that is no host."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple

from gwproxy.errors import BadRequest

# Labels with '_' are no host names (RFC 952) but names that container platforms give to services.
_NAME = re.compile(
    r"([a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*)\.?(?::([0-9]{0,5}))?", re.ASCII
)
_IPV6 = re.compile(r"\[([0-9a-f:.]{2,45})\](?::([0-9]{0,5}))?", re.ASCII)
_LONGEST = 253


class Host(NamedTuple):
    """A host and the port that was given with it.

    :ivar name: lower case, without trailing dot; an IPv6 address compressed and in brackets.
    :ivar port: 1 to 65535; None if there was none.
    """

    name: str
    port: int | None


@lru_cache(maxsize=1024)
def parse_host(value: str) -> Host:
    """Parse the value of a Host field or the authority of a target (RFC 3986 section 3.2, without user information).

    :raises BadRequest: it is empty, or no host with an optional port. Percent-encoded and non-ASCII names are none.
    """
    value = value.lower() if value.isascii() else ""  # lower() makes ASCII letters of a few others
    if (match := _NAME.fullmatch(value)) is not None:
        name = match[1]
    elif (match := _IPV6.fullmatch(value)) is not None:
        name = f"[{_compressed(match[1])}]"
    else:
        raise BadRequest("no valid host")
    port = int(match[2]) if match[2] else None
    if len(name) > _LONGEST or (port is not None and not 0 < port < 65536):
        raise BadRequest("a host name over 253 characters, or a port outside 1 to 65535")
    return Host(name, port)


def _compressed(address: str) -> str:
    try:
        return IPv6Address(address).compressed
    except AddressValueError:
        raise BadRequest("no valid IPv6 address as host") from None
