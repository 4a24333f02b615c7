"""B05: beyond the most connections a worker serves, further ones wait in the kernel's backlog, as docs/operating.md says."""

from __future__ import annotations

import select

import pytest

from tests.e2e.raw import RawClient, head
from tests.wire.conftest import PARSERS, StartPlayer

pytestmark = pytest.mark.e2e

LIVE = "/.well-known/gwproxy/live"


@pytest.mark.parametrize("environment", PARSERS)
def test_B05_a_connection_too_many_waits_until_another_ends(player: StartPlayer, environment: str) -> None:
    port = player("single", environment).port
    with RawClient(port) as first, RawClient(port) as second:
        first.send(head(LIVE)[:-2])  # a request under way: an idle connection would be given up for the second
        second.send(head(LIVE))
        assert not select.select([second.sock], [], [], 0.3)[0]
        first.send(b"\r\n")
        assert first.answer().status == 200
        assert second.answer().status == 200
