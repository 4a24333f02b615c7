"""What upstreams do: section 2.9 of the catalogue."""

from __future__ import annotations

import pytest

from tests.wire.cases import Case, cases
from tests.wire.conftest import TRANSPORTS, StartPlayer

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("environment", TRANSPORTS)
@pytest.mark.parametrize("case", cases("2.9-upstreams"), ids=lambda case: case.id)
def test_row(player: StartPlayer, case: Case, environment: str) -> None:
    gateway = player(case.gateway, environment)
    assert gateway.play(case) == gateway.expected(case), case.why
