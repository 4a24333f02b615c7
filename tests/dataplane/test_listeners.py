"""A connection to oneself is known as one, by whatever address it was made."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from gwproxy.dataplane.connect import Origin, connect
from gwproxy.dataplane.failures import UpstreamFailed
from gwproxy.dataplane.listeners import leads_back, listening_on
from gwproxy.worker.admin_address import admin_addresses


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    listening_on(())


@pytest.mark.parametrize(
    ("bind", "family", "reached"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("0.0.0.0", socket.AF_INET, "127.0.0.1"),
        ("0.0.0.0", socket.AF_INET, "127.0.0.2"),
        ("::", socket.AF_INET6, "127.0.0.1"),
        ("::1", socket.AF_INET6, "::1"),
        ("127.0.0.1", socket.AF_INET, "::ffff:127.0.0.1"),
    ],
)
def test_G11_its_own_listener_is_no_upstream(bind: str, family: socket.AddressFamily, reached: str) -> None:
    dual = family == socket.AF_INET6 and bind == "::"
    with socket.create_server((bind, 0), family=family, dualstack_ipv6=dual) as listener:
        port = listener.getsockname()[1]
        with contextlib.closing(connect(Origin("http", reached, port), None, time.monotonic() + 10)) as before:
            assert not leads_back(before)  # nobody has said that it is ours
        listening_on([listener.getsockname(), "/run/gateway.sock"])
        with pytest.raises(UpstreamFailed, match="own listener"):
            connect(Origin("http", reached, port), None, time.monotonic() + 10)


def test_another_port_of_the_same_machine_is_an_upstream() -> None:
    with socket.create_server(("0.0.0.0", 0)) as ours, socket.create_server(("127.0.0.1", 0)) as upstream:
        listening_on([ours.getsockname()])
        connect(Origin("http", "127.0.0.1", upstream.getsockname()[1]), None, time.monotonic() + 10).close()


@pytest.mark.parametrize(
    ("bind", "found"), [("127.0.0.1:81", {("127.0.0.1", 81)}), ("[::1]:81", {("::1", 81)}), (":81", {("0.0.0.0", 81)})]
)
def test_D03_where_the_admin_listener_is_no_upstream_is(bind: str, found: set[tuple[str, int]]) -> None:
    assert {address[:2] for address in admin_addresses(bind)} == found


@pytest.mark.parametrize("bind", [None, "unix:/run/admin.sock", "nonsense", "no-such-host.invalid:80"])
def test_an_admin_listener_that_no_upstream_could_be(bind: str | None) -> None:
    assert admin_addresses(bind) == []


def test_D03_the_admin_listener_is_known_by_any_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listening_on(admin_addresses(f"localhost:{port}"))
        for name in ("127.0.0.1", "localhost", "::ffff:127.0.0.1"):
            with pytest.raises(UpstreamFailed, match="own listener"):
                connect(Origin("http", name, port), None, time.monotonic() + 10)
