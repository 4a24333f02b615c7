"""The table of limits in docs/operating.md says what the code does: every default, and every name that sets one."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from gwproxy.controlplane.parse import MAX_ROUTES
from gwproxy.controlplane.text import MAX_BYTES
from gwproxy.dataplane.wire import MAX_FIELDS, MAX_HEAD
from gwproxy.model import Concurrency, PluginBreaker, PluginRef, Route, Timeouts, Upstream
from gwproxy.settings import Settings
from gwproxy.store.log_buffer import MOST_BYTES, MOST_ENTRIES
from gwproxy.store.shared import REQUEST_TIMEOUT

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "operating.md").read_text()


def gunicorn_settings() -> dict[str, Any]:
    """What gwproxy/worker/gunicorn_conf.py sets to a constant; importing it would patch this process."""
    tree = ast.parse((ROOT / "gwproxy" / "worker" / "gunicorn_conf.py").read_text())
    named = [(node.targets[0], node.value) for node in tree.body if isinstance(node, ast.Assign)]
    return {name.id: value.value for name, value in named if isinstance(name, ast.Name) and isinstance(value, ast.Constant)}


GUNICORN = gunicorn_settings()
SETTINGS = Settings()


def size(count: int) -> str:
    unit, name = next((unit, name) for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")) if count % unit == 0)
    return f"{count // unit} {name}"


def default(model: Any, field: str) -> Any:
    return model.model_fields[field].default


_HELD = Concurrency()
_WAITS = Timeouts()
_BREAKER = PluginBreaker()
DEFAULTS = {
    "request line": f"{GUNICORN['limit_request_line']:,} bytes",
    "header fields": f"{GUNICORN['limit_request_fields']}, each {GUNICORN['limit_request_field_size']:,} bytes",
    "time for a head": f"{SETTINGS.header_timeout:g} s",
    "request body": {None: "none"}[default(Route, "max_body")],
    "body a plugin may read": size(default(Route, "max_buffer")),
    "silence within a body": f"{SETTINGS.body_timeout:g} s",
    "pace of a body": f"{SETTINGS.body_rate} bytes a second, after {SETTINGS.body_timeout:g} s",
    "response left unread": f"{SETTINGS.write_timeout:g} s",
    "idle connection": f"{GUNICORN['keepalive']} s",
    "requests in flight a worker": f"{SETTINGS.max_in_flight:,}",
    "requests in flight a worker and upstream": f"{_HELD.limit:,}, and {_HELD.queue} that wait for {_HELD.wait:g} s",
    "connections a worker": f"{GUNICORN['worker_connections']:,}",
    "memory a worker": size(SETTINGS.max_memory),
    "time for an upstream to connect, to answer, to go on": f"{_WAITS.connect:g} s, {_WAITS.head:g} s, {_WAITS.read:g} s",
    "response head of an upstream": f"{size(MAX_HEAD)}, {MAX_FIELDS} fields",
    "time of a plugin's hook": f"{default(PluginRef, 'budget'):g} s",
    "hooks of an entry that run over their budget": f"{_BREAKER.failures} in {_BREAKER.window:g} s, in a worker",
    "configuration": f"{size(MAX_BYTES)}, {MAX_ROUTES:,} routes",
    "a call to Redis on the request path": f"{REQUEST_TIMEOUT * 1000:g} ms",
    "waiting log entries": f"{MOST_ENTRIES:,} or {size(MOST_BYTES)} a worker",
}


def rows() -> list[list[str]]:
    section = PAGE.partition("\n## Limits\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")][2:]


def test_every_default_is_the_code_s() -> None:
    assert {limit: stated for limit, stated, _, _ in rows()} == DEFAULTS


def test_the_backlog_is_the_code_s() -> None:
    assert f"in the backlog ({GUNICORN['backlog']})" in PAGE


@pytest.mark.parametrize("name", sorted({name for row in rows() for name in re.findall(r"`(\w+)`", row[3])}))
def test_every_name_that_sets_a_limit_exists(name: str) -> None:
    if name.startswith("GWPROXY_"):
        assert hasattr(SETTINGS, name.removeprefix("GWPROXY_").lower())
    else:
        models = (Route, Upstream, PluginRef)
        assert name in GUNICORN or any(name in model.model_fields for model in models)


@pytest.mark.parametrize("field", ["header_timeout", "body_timeout", "body_rate", "write_timeout", "max_in_flight", "max_memory"])
def test_what_the_environment_leaves_unset_is_the_default(field: str) -> None:
    assert getattr(Settings.from_environment({}), field) == getattr(SETTINGS, field)


def test_there_is_room_to_say_503_before_connections_run_out() -> None:
    assert GUNICORN["worker_connections"] >= 2 * SETTINGS.max_in_flight
