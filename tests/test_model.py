"""What models show of themselves."""

from __future__ import annotations

from gwproxy.model import PluginRef, Route


def test_X08_a_plugin_that_logs_its_route_logs_nobodys_secrets() -> None:
    route = Route(path="/a", upstream="http://10.0.0.5", plugins=(PluginRef(name="jwt_auth", config={"secret": "hunter2"}),))
    shown = f"{route!r} {route} {route.plugins}"
    assert "jwt_auth" in shown
    assert "hunter2" not in shown
