"""What models show of themselves."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gwproxy.hookspecs import PHASES
from gwproxy.model import PluginRef, Route


def test_X08_a_plugin_that_logs_its_route_logs_nobodys_secrets() -> None:
    route = Route(path="/a", upstream="http://10.0.0.5", plugins=(PluginRef(name="jwt_auth", config={"secret": "hunter2"}),))
    shown = f"{route!r} {route} {route.plugins}"
    assert "jwt_auth" in shown
    assert "hunter2" not in shown


def budgets(**given: object) -> set[float]:
    ref = PluginRef.model_validate({"name": "cors", **given})
    return {ref.budget_in(phase) for phase in PHASES}


def test_a_budget_is_in_seconds_or_in_milliseconds_for_all_phases_or_for_each() -> None:
    assert budgets() == {5.0}
    assert budgets(budget=0.5) == budgets(budget_ms=500) == {0.5}
    assert budgets(budget=2.0, budget_ms={"auth": 20}) == {2.0, 0.02}
    assert PluginRef.model_validate({"name": "cors", "budget_ms": {"auth": 20}}).budget_in("auth") == 0.02


def test_two_budgets_for_all_phases_are_refused() -> None:
    with pytest.raises(ValidationError, match="given twice"):
        budgets(budget=0.5, budget_ms=500)
    with pytest.raises(ValidationError):
        budgets(budget_ms={"on_finish": 5})
