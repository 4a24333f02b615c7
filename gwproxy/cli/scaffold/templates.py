"""The files of a new plugin package, by path; ``$name`` and the like are those of :func:`gwproxy.cli.scaffold.names_of`."""

_README = """\
# $package

The gwproxy plugin `$name`.

```sh
pip install -e '.[test]' && pytest     # the tests run the gateway in their own process: no ports, no Redis
gwproxy plugins check .                # what it has to withstand: bad input, blocking, buffering, cost
gwproxy plugins info $name
pip wheel . --no-deps --wheel-dir dist
```

Then routes may say:

```yaml
plugins:
  - {name: $name, config: {value: "1"}}
```

`gwproxy check` validates that. A gateway with the package installed has the plugin when it starts; one that runs gets it with
`gwproxy plugins sign` and `gwproxy plugins push` of the wheel. `mode: shadow` in the entry records what the plugin would do
without doing it.
"""

_SETUP = """\
[metadata]
name = $package
version = 0.1.0
description = The gwproxy plugin $name.

[options]
py_modules = $module
python_requires = >=3.11
install_requires =
    gwproxy

[options.extras_require]
test =
    gwproxy[testing]

# The name of the entry point is the name of the plugin; gwproxy finds it at start, with no other step.
[options.entry_points]
gwproxy =
    $name = $module:$cls

[tool:pytest]
testpaths = tests
"""

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"
"""

_MODULE = '''\
"""Tell the upstream, by a header, that a request passed here.

This is what `gwproxy plugins info $name` shows: say what the plugin does for whoever writes a configuration.
"""

from __future__ import annotations

from typing import Annotated

from gwproxy import Context, Plugin, PluginConfig, hookimpl
from pydantic import Field


class ${cls}Config(PluginConfig):
    """What an entry may say; validated, with line and column, before any request is served."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$$")] = "$header"
    """The header that is set."""
    value: Annotated[str, Field(pattern=r"^[ -~]{1,256}$$")] = "1"
    """What it is set to: 1 to 256 characters of printable ASCII."""


class $cls(Plugin):
    """One instance serves all requests of a worker: keep what belongs to a request in `ctx.state`."""

    name = "$name"
    version = "0.1.0"
    priority = 450  # within a phase the lowest runs first; request_transform has 400
    config_model = ${cls}Config

    @hookimpl
    def pre_proxy(self, ctx: Context, config: ${cls}Config) -> None:
        """Set the header; what the client sent under that name is replaced."""
        ctx.request.headers[config.header] = config.value
'''

_TESTS = """\
from importlib.metadata import entry_points

import pytest
from gwproxy.testing import ConfigurationRefused, InProcessGateway

from $module import $cls


def test_the_upstream_sees_the_header(gateway: InProcessGateway) -> None:
    gateway.use($cls, {"value": "blue"})
    answer = gateway.get("/x")
    assert answer.status == 200
    assert answer.upstream.headers["$header"] == "blue"
    assert answer.decisions == ["$name pre_proxy: changed request.headers"]


def test_what_the_client_sent_is_replaced(gateway: InProcessGateway) -> None:
    gateway.use($cls)
    sent = [("$header", "mine")]
    answer = gateway.get("/x", headers=sent * 2)
    assert answer.upstream.headers.getlist("$header") == ["1"]


def test_other_headers_stay(gateway: InProcessGateway) -> None:
    gateway.use($cls, {"header": "X-Other"})
    answer = gateway.get("/x", headers={"Accept": "text/html"})
    assert answer.upstream.headers["Accept"] == "text/html"
    assert "$header" not in answer.upstream.headers


@pytest.mark.parametrize(
    "wrong",
    [
        {"header": "not a name"},
        {"value": ""},
        {"value": "two\\nlines"},
        {"vlaue": "1"},
    ],
)
def test_what_is_refused(gateway: InProcessGateway, wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationRefused):
        gateway.use($cls, wrong)


def test_gwproxy_finds_it() -> None:
    (point,) = entry_points(group="gwproxy", name="$name")
    assert point.load() is $cls
"""

FILES = {
    "README.md": _README,
    "setup.cfg": _SETUP,
    "pyproject.toml": _PYPROJECT,
    "$module.py": _MODULE,
    "tests/test_$name.py": _TESTS,
}
