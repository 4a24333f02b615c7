"""B05: beyond the most connections a worker serves, further ones wait in the kernel's backlog, as docs/operating.md says."""

from __future__ import annotations

import select

import pytest

from tests.e2e.raw import RawClient, head
from tests.wire.conftest import ENVIRONMENTS, StartPlayer

pytestmark = pytest.mark.e2e

LIVE = "/.well-known/gwproxy/live"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_B05_a_connection_too_many_waits_until_another_ends(player: StartPlayer, environment: str) -> None:
    port = player("single", environment).port
    with RawClient(port) as first, RawClient(port) as second:
        assert first.ask(LIVE).status == 200
        second.send(head(LIVE))
        assert first.ask(LIVE).status == 200  # a round trip later the second is not served
        assert not select.select([second.sock], [], [], 0.3)[0]
        first.sock.close()
        assert second.answer().status == 200
