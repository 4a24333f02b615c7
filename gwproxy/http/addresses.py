"""Which addresses a request must never be sent to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

# Loopback and private networks are where upstreams live. These are where clouds hand out credentials to whoever asks.
_FORBIDDEN = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",  # IPv4 link-local (RFC 3927): the metadata service of nearly every cloud
        "fe80::/10",  # IPv6 link-local (RFC 4291)
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure
        "192.0.0.192/32",  # Oracle Cloud
        "fd00:ec2::254/128",  # AWS
        "fd20:ce::254/128",  # Google Cloud
        "fd00:42::42/128",  # Scaleway
    )
)
_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE = ip_network("::/96")  # RFC 4291 section 2.5.5.1


def is_forbidden(address: str) -> bool:
    """Whether ``address`` is link-local or a cloud's metadata service, also when it is wrapped in an IPv6 address.

    A host name is not forbidden: it is judged by the addresses it resolves to, when a connection is made. Loopback and
    private addresses are allowed.

    :param address: an IPv4 or IPv6 address, with or without brackets and zone, or a host name.
    """
    try:
        parsed = ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return any(form in network for form in _forms(parsed) for network in _FORBIDDEN)


def _forms(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Return the address and the IPv4 address it stands for, if there is one."""
    if isinstance(address, IPv4Address):
        return [address]
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and (address in _NAT64 or address in _COMPATIBLE):
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    return [address] if inner is None else [address, inner]
