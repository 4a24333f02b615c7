from __future__ import annotations

import pytest

from gwproxy.http.addresses import is_forbidden


@pytest.mark.parametrize(
    "address",
    [
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fe80::1",
        "fe80::1%eth0",
        "febf:ffff::1",
        "[fe80::1]",
        "fd00:ec2::254",
        "FD00:0EC2:0:0:0:0:0:0254",
        "fd20:ce::254",
        "fd00:42::42",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "[::ffff:169.254.169.254]",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::169.254.169.254",
    ],
)
def test_G12_link_local_and_metadata_addresses_are_forbidden_in_every_spelling(address: str) -> None:
    assert is_forbidden(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "::",
        "10.0.0.5",
        "192.168.1.1",
        "172.16.0.1",
        "100.100.100.201",
        "169.253.255.255",
        "169.255.0.0",
        "fd00::1",
        "fec0::1",
        "2001:db8::1",
        "::ffff:10.0.0.5",
        "64:ff9b::8.8.8.8",
        "2002:0808:0808::1",
    ],
)
def test_G11_loopback_private_and_public_addresses_are_allowed(address: str) -> None:
    assert not is_forbidden(address)


@pytest.mark.parametrize("name", ["", "metadata.google.internal", "localhost", "169.254.169.254.nip.io", "0xa9fea9fe", "2852039166"])
def test_a_name_is_judged_by_what_it_resolves_to_not_here(name: str) -> None:
    assert not is_forbidden(name)
