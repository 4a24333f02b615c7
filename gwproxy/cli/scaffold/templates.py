"""The files of a new plugin package, by path; ``$name`` and the like are those of :func:`gwproxy.cli.scaffold.names_of`."""

_README = """\
# $package

The gwproxy plugin `$name`.

```sh
pip install -e '.[test]' && pytest     # beside gwproxy
gwproxy plugins info $name
```

Then routes may say:

```yaml
plugins:
  - {name: $name, config: {value: "1"}}
```

`gwproxy check` validates that, and a gateway that is restarted runs it. `mode: shadow` in the entry records what the
plugin would do without doing it.
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
    pytest

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
    """What it is set to, in printable ASCII."""


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
from gwproxy import Context, Headers, Request
from pydantic import ValidationError

from $module import $cls, ${cls}Config


def context(*fields: tuple[str, str]) -> Context:
    return Context(Request("GET", "/", headers=Headers(fields)))


def test_the_header_is_set() -> None:
    ctx = context()
    $cls().pre_proxy(ctx, ${cls}Config(value="blue"))
    assert ctx.request.headers["$header"] == "blue"


def test_what_the_client_sent_is_replaced() -> None:
    ctx = context(("$header", "mine"), ("$header", "also mine"))
    $cls().pre_proxy(ctx, ${cls}Config())
    assert ctx.request.headers.getlist("$header") == ["1"]


def test_other_headers_stay() -> None:
    ctx = context(("Accept", "text/html"))
    $cls().pre_proxy(ctx, ${cls}Config(header="X-Other"))
    assert ctx.request.headers["Accept"] == "text/html"
    assert "$header" not in ctx.request.headers


@pytest.mark.parametrize(
    "config",
    [
        {"header": "not a name"},
        {"value": ""},
        {"value": "two\\nlines"},
        {"vlaue": "1"},
    ],
)
def test_a_wrong_configuration_is_refused(config: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ${cls}Config(**config)


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
