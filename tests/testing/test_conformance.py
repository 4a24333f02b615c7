"""The conformance kit finds what it says it finds, and nothing in what is built in."""

from __future__ import annotations

import gc
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

import pytest

from gwproxy import Plugin
from gwproxy.registry import Registry
from gwproxy.testing.conformance import RULES, Report, conform

SAMPLES = {
    "fault_injection": {"abort": {"status": 503, "share": 0.5}},
    "jwt_auth": {"secret": "s" * 32},
    "pii_log": {"custom_patterns": {"plate": "[A-Z]{2}-[0-9]{4}"}},
    "request_transform": {"add_headers": {"X-A": "1"}, "remove_headers": ["X-B"], "rewrite_path": "/y"},
    "webhook_signature": {"scheme": "hmac", "secrets": ["s" * 32], "header_name": "X-Signature"},
}

HEAD = '''
"""A plugin."""
import json, time
from typing import Annotated
from pydantic import BaseModel, Field, SecretStr, field_validator
from gwproxy import Plugin, PluginConfig, hookimpl

SEEN = []

class C(PluginConfig):
    """What it takes."""
    size: Annotated[int, Field(ge=1, le=9, description="How many.")] = 7
BODY

class Bad(Plugin):
    name, version, config_model = "bad", "1", C
    hits = 0

    @hookimpl
    def pre_proxy(self, ctx, config):
        PRE

    @hookimpl
    def post_proxy(self, ctx, config):
        POST
'''

#: By rule: lines of the configuration, of ``pre_proxy`` and of ``post_proxy`` that break it, and what has to be found where.
BAD = [
    ("described", "    n: bool = True", "", "", "n", "no description"),
    ("bounded", "    n: Annotated[int, Field(ge=0)] = 1\n    'N.'", "", "", "n", "a number without upper bound"),
    ("bounded", "    names: tuple[str, ...] = ()\n    'N.'", "", "", "names", "a text of any length"),
    ("bounded", "    deep: dict[str, list[float]] = {}\n    'N.'", "", "", "deep", "a number without lower and upper bound"),
    (
        "closed",
        "    class M(BaseModel):\n        a: bool = True\n        'A.'\n    m: M | None = None\n    'M.'",
        "",
        "",
        "M",
        "keys that it does not know",
    ),
    ("secret", "    api_key: Annotated[str, Field(max_length=9)] = ''\n    'K.'", "", "", "api_key", "by its name a secret"),
    (
        "secret",
        "    k: SecretStr = SecretStr('hidden-12345')\n    'K.'\n    def __repr__(self): return self.k.get_secret_value()",
        "",
        "",
        "C",
        "repr",
    ),
    ("sample", "    n: bool\n    'N.'", "", "", "n", "Field required"),
    (
        "round_trip",
        "    @field_validator('size')\n    @classmethod\n    def twice(cls, size): return size + 1",
        "",
        "",
        "size",
        "reads back as something else",
    ),
    ("state", "", "self.last = ctx.request.headers.get('Cookie')", "", "Bad.last", "written"),
    ("state", "", "type(self).hits += 1", "", "bad_plugin.Bad", "written"),
    ("state", "", "SEEN.append(1)", "", "bad_plugin.SEEN", "written"),
    ("blocks", "", "time.sleep(0.03)", "", "<bad>:", "pre_proxy holds the worker for"),
    ("blocks", "", "open('/dev/null').close()", "", "pre_proxy", "opens /dev/null"),
    ("streams", "", "ctx.request.get_data()", "", "pre_proxy", "request of application/octet-stream"),
    ("streams", "", "", "ctx.response.get_data()", "post_proxy", "response of text/event-stream"),
    (
        "streams",
        "",
        "'json' in ctx.request.headers.get('Content-Type', '') and ctx.request.get_data()",
        "",
        "pre_proxy",
        "reads the request body, and does the same whatever that holds",
    ),
    ("bad_input", "", "ctx.request.headers['Accept']", "", "pre_proxy", "no header: KeyError"),
    ("bad_input", "", "int(ctx.request.headers.get('X-Count', '0'))", "", "pre_proxy", "X-Count: '': ValueError"),
    ("bad_input", "", "json.loads(ctx.request.get_data() or b'{}')", "", "pre_proxy", "body: not UTF-8: JSONDecodeError"),
    ("bad_input", "", "", "ctx.response.get_data().decode()", "post_proxy", "body: not UTF-8: UnicodeDecodeError"),
    ("cost", "", "sum(range(60_000))", "", "bad", "the budget is 500 us"),
]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., type[Plugin]]:
    def made(body: str = "", pre: str = "", post: str = "") -> type[Plugin]:
        module = ModuleType("bad_plugin")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        text = textwrap.dedent(HEAD).replace("BODY", body).replace("PRE", pre or "pass").replace("POST", post or "pass")
        exec(compile(text, "<bad>", "exec", dont_inherit=True), module.__dict__)
        kind: type[Plugin] = module.Bad
        return kind

    return made


@pytest.mark.parametrize("name", sorted(registered.plugin.name for registered in Registry.discover()))
def test_what_is_built_in_passes(name: str) -> None:
    plugin = Registry.discover().find(name)
    assert plugin is not None
    report = conform(type(plugin), SAMPLES.get(name), budget_us=5_000, hold_ms=200)  # a busy machine is no finding
    assert report.findings == []
    assert report.requests > 250


def test_what_was_garbage_before_is_not_taken_for_a_write(make: Callable[..., type[Plugin]]) -> None:
    kind = make(pre="'Accept' in ctx.request.headers or __import__('gc').collect(0)")
    gc.disable()
    try:
        circle = kind()
        vars(circle)["itself"] = circle
        vars(sys.modules[kind.__module__])["held"] = WeakValueDictionary({"one": circle})
        del circle
        report = conform(kind, budget_us=5_000, hold_ms=200)
    finally:
        gc.enable()
    assert report.findings == []


def test_a_good_one_passes(make: Callable[..., type[Plugin]]) -> None:
    report = conform(make(), budget_us=5_000, hold_ms=200)
    assert report.as_data() | {"cost_us": 0, "requests": 0} == {
        "plugin": "bad",
        "passed": True,
        "rules": [{"rule": rule, "state": "passed", "asks": asks} for rule, (asks, _) in RULES.items()],
        "findings": [],
        "cost_us": 0,
        "requests": 0,
    }


@pytest.mark.parametrize(("rule", "body", "pre", "post", "where", "found"), BAD, ids=[f"{row[0]}-{row[4]}" for row in BAD])
def test_each_rule_finds_something(
    make: Callable[..., type[Plugin]], rule: str, body: str, pre: str, post: str, where: str, found: str
) -> None:
    report = conform(make(body, pre, post), hold_ms=20)
    hits = [finding for finding in report.findings if finding.rule == rule]
    assert any(where in finding.where and found in finding.found for finding in hits), report.findings
    assert all(finding.next for finding in hits)


def test_what_does_not_fit_the_specifications_is_found_by_loading(make: Callable[..., type[Plugin]]) -> None:
    kind: Any = make()
    kind.post_auth = lambda self, ctx, config: None
    report = conform(kind)
    assert {row["state"] for row in report.as_data()["rules"][1:]} == {"not tried"}
    (finding,) = report.findings
    assert (finding.rule, finding.found) == ("loads", "post_auth is not marked with @hookimpl")


def test_every_rule_is_broken_by_some_test() -> None:
    assert {row[0] for row in BAD} | {"loads"} == RULES.keys()


def test_a_finding_is_noted_once() -> None:
    report = Report("x")
    for _ in range(2):
        report.add("cost", "x", "much")
    assert len(report.findings) == 1


def test_the_page_has_a_row_for_every_rule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text().partition("## Checking")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(RULES)
