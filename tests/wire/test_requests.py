"""What clients send: sections 2.1 to 2.3 and 2.8 of the catalogue."""

from __future__ import annotations

import pytest

from tests.wire.cases import Case, cases
from tests.wire.conftest import PARSERS, StartPlayer

pytestmark = pytest.mark.e2e

SECTIONS = ("2.1-requests", "2.2-routes", "2.3-headers", "2.8-slow-clients")


@pytest.mark.parametrize("environment", PARSERS)
@pytest.mark.parametrize("case", [case for section in SECTIONS for case in cases(section)], ids=lambda case: case.id)
def test_row(player: StartPlayer, case: Case, environment: str) -> None:
    gateway = player(case.gateway, environment)
    assert gateway.play(case) == gateway.expected(case), case.why
