"""Write plugin-api.md, the reference of the plugin API, from the hook specifications and the public classes.

::

    python docs/plugin_api.py

What stands there is what stands in the code: the signatures and the docstrings of everything that ``gwproxy`` and
``gwproxy.testing`` export. tests/test_plugin_api.py holds the page to it, and the API to what was promised.
"""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Container, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from pydantic import BaseModel

import gwproxy
import gwproxy.testing
from gwproxy.controlplane.reference import field_table
from gwproxy.hookspecs import HookSpecs

PAGE = Path(__file__).parent / "plugin-api.md"
#: What version 1 of the API has promised, name by name; it only grows.
PROMISE = Path(__file__).parent / "plugin-api-1.json"

#: Public by their names, but the gateway's own business: they may change with any version.
INTERNAL = {
    "Context": {"challenges", "finishers", "shadow"},
    "Headers": {"adopt", "among", "append", "fields", "first", "index", "lines", "lower_items", "shared", "sharing"},
    "Request": {"body", "copy", "forwarded", "host_header", "http_version", "peer"},
    "PluginConfig": {"model_post_init"},
    "Response": {"body", "copy", "error", "of", "unread"},
    "InProcessGateway": {"app", "registry", "worker"},
    "FakeUpstream": {"adapter", "close"},
    "Clock": {"hide", "show"},
    "UpstreamChoice": {"patience"},
}

_INTRODUCTION = """\
# Plugin API reference

Everything that a plugin may import from `gwproxy`, version {version} of the plugin API, and what its tests may import from
`gwproxy.testing`. Nothing else is public: what is not here may change with any version. [Writing a plugin](plugins.md)
explains it, [Plugin API versions](plugin-api-versions.md) says what is promised. This page is made from the code:
`python docs/plugin_api.py`.

"""
_ROLE = re.compile(r":(?:class|meth|attr|data|func|mod|exc):`~?([^`]+)`")
_ATTRIBUTE = re.compile(r"^:[ic]var (\w+): (.*(?:\n    .*)*)\n?", re.MULTILINE)
_FIELD = re.compile(r":(?:ivar|cvar|param|raises?|returns?)(?: ([\w., ]+))?: (.*)")


def page() -> str:
    """Return the page."""
    parts = [_INTRODUCTION.format(version=gwproxy.API_VERSION)]
    parts += ["## Hooks\n\n", _prose(inspect.getdoc(inspect.getmodule(HookSpecs)) or ""), "\n"]
    for name, hook in hooks():
        parts += [f"### `{name}{_signature(hook)}`\n\n", _prose(inspect.getdoc(hook) or ""), "\n"]
    for title, module in (("`gwproxy`", gwproxy), ("`gwproxy.testing`", gwproxy.testing)):
        parts += [f"## {title}\n\n"]
        for name, value in exported(module):
            parts += [_section(name, value), "\n"]
    return "".join(parts).rstrip() + "\n"


def hooks() -> Iterator[tuple[str, FunctionType]]:
    """Yield the hooks, in the order in which they are specified."""
    yield from ((name, value) for name, value in vars(HookSpecs).items() if not name.startswith("_"))


def exported(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield what a module exports, by name."""
    yield from ((name, getattr(module, name)) for name in sorted(module.__all__, key=str.lower) if name != "__version__")


def members(name: str, kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the methods and properties of a class that plugins may use, and their names, in the order of its code."""
    for attribute, value in vars(kind).items():
        value = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if not attribute.startswith("_") and attribute not in INTERNAL.get(name, ()) and isinstance(value, (FunctionType, property)):
            yield attribute, value


def attributes(name: str, kind: type) -> dict[str, str]:
    """Return what a class says of its attributes; of a dataclass, of all."""
    told = dict(_ATTRIBUTE.findall(inspect.cleandoc(kind.__doc__ or "")))
    fields = {field: "" for field in getattr(kind, "__dataclass_fields__", ()) if not field.startswith("_")}
    return {field: text for field, text in {**fields, **told}.items() if field not in INTERNAL.get(name, ())}


def _section(name: str, value: Any) -> str:
    if isinstance(value, FunctionType):
        return f"### `{name}{_signature(value)}`\n\n{_prose(inspect.getdoc(value) or '')}"
    if not inspect.isclass(value):
        return f"### `{name}`\n\n{_constant(name, value)}\n"
    parts = [f"### `{name}{_construction(name, value)}`\n\n", _prose(_ATTRIBUTE.sub("", inspect.cleandoc(value.__doc__ or "")))]
    if issubclass(value, BaseModel) and value.model_fields:
        return "".join([*parts, "\n", re.sub(r"\]\(#\w+\)", "](configuration.md)", field_table(value))])
    known = attributes(name, value)
    rows = [f"* `{attribute}`" + (f": {_inline(text)}" if text else "") + "\n" for attribute, text in known.items()]
    rows += [f"* {line}\n" for line in _members(name, value, known)]
    return "".join([*parts, "\n" if rows else "", *rows])


def _members(name: str, kind: type, known: Container[str]) -> Iterator[str]:
    for attribute, value in members(name, kind):
        if attribute not in known:
            call = "" if isinstance(value, property) else _signature(value)
            text, *fields = re.split(r"\n+\* ", _prose(inspect.getdoc(value) or _inherited(kind, attribute)).strip())
            yield "\n  * ".join([f"`{attribute}{call}`" + (f": {' '.join(text.split())}" if text else ""), *fields])


def _inherited(kind: type, attribute: str) -> str:
    """Return what the protocol says that a class of the kit stands in for."""
    protocol = {"MemoryStore": gwproxy.Store}.get(kind.__name__)
    return inspect.getdoc(getattr(protocol, attribute, None)) or "" if protocol is not None else ""


def _constant(name: str, value: Any) -> str:
    if name == "hookimpl":
        return "Marks a method as the implementation of the hook of that name: `@hookimpl`."
    if typing.get_origin(value) is typing.Annotated:
        return {
            "Duration": "The type of a field that holds seconds: above 0, at most a day.",
            "Size": "The type of a field of bytes: `10MiB`.",
        }[name]
    if typing.get_origin(value) is typing.Literal:
        return "One of " + ", ".join(f"`{choice}`" for choice in typing.get_args(value)) + "."
    return f"`{value!r}`"


def _construction(name: str, kind: type) -> str:
    """Return how an instance is made, of those that plugins and their tests make."""
    made = {"Headers", "Entry", "Timeouts", "InProcessGateway", "Reply"}
    if name not in made:
        return ""
    if name == "Timeouts":
        return "(*, " + ", ".join(f"{field}=..." for field in kind.model_fields) + ")"  # type: ignore[attr-defined]
    return _signature(kind.__init__).removesuffix(" -> None")


def _signature(function: Any) -> str:
    """Return how a function is called: its annotations as they are written."""
    signature = inspect.signature(function)
    parameters = [parameter for name, parameter in signature.parameters.items() if name not in ("self", "cls")]
    text = str(signature.replace(parameters=[_unquoted(parameter) for parameter in parameters], return_annotation=inspect.Signature.empty))
    return text if signature.return_annotation is inspect.Signature.empty else f"{text} -> {signature.return_annotation}"


class _Written:
    """An annotation, shown as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _unquoted(parameter: inspect.Parameter) -> inspect.Parameter:
    written = parameter.annotation
    return parameter.replace(annotation=_Written(written)) if isinstance(written, str) else parameter


def _inline(text: str) -> str:
    return " ".join(_prose(text).split())


def _prose(text: str) -> str:
    """Return a docstring as Markdown: its fields as a list, its literals and roles as code."""
    lines: list[str] = []
    for line in text.splitlines():
        field = _FIELD.fullmatch(line)
        if field is not None:
            if lines and lines[-1] and not lines[-1].startswith("* "):
                lines.append("")
            kind = line[1:].split(":")[0].split()[0]
            lead = f"raises `{field[1]}`" if kind in ("raises", "raise") else f"`{field[1]}`" if field[1] else "returns"
            lines.append(f"* {lead}: {field[2]}")
        elif line.startswith("    ") and lines and lines[-1].startswith("* "):
            lines[-1] += f" {line.strip()}"
        elif line.startswith(">>>") or (lines and lines[-1].startswith("    >>>")):
            lines.append(f"    {line}")
        else:
            lines.append(line)
    joined = _ROLE.sub(lambda match: f"`{match[1].rpartition('.')[2]}`", "\n".join(lines)).replace("``", "`")
    return f"{joined.strip()}\n" if joined.strip() else ""


def surface() -> dict[str, list[str] | None]:
    """Return everything public by its name, with the parameters of what can be called; those with a default end in ``=``."""
    found: dict[str, list[str] | None] = {f"hook {name}": _parameters(hook) for name, hook in hooks()}
    for module in (gwproxy, gwproxy.testing):
        for name, value in exported(module):
            path = f"{module.__name__}.{name}"
            found[path] = _parameters(value) if isinstance(value, FunctionType) else _made(name, value)
            if inspect.isclass(value):
                fields = value.model_fields if issubclass(value, BaseModel) else attributes(name, value)
                found.update({f"{path}.{field}": None for field in fields})
                for member, method in members(name, value):
                    found.setdefault(f"{path}.{member}", None if isinstance(method, property) else _parameters(method))
    return found


def _made(name: str, value: Any) -> list[str] | None:
    return _parameters(value.__init__) if inspect.isclass(value) and _construction(name, value).startswith("(") else None


def _parameters(function: Any) -> list[str]:
    """Return the parameters of a function: ``name``, ``name=``, ``*, name``, ``*name``, ``**name``."""
    prefixes = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.KEYWORD_ONLY: "*, "}
    given = [parameter for parameter in inspect.signature(function).parameters.values() if parameter.name not in ("self", "cls")]
    return [prefixes.get(one.kind, "") + one.name + ("=" if one.default is not inspect.Parameter.empty else "") for one in given]


def main() -> None:
    """Write the page; add to the promise what is new. What it holds already is never changed."""
    PAGE.write_text(page(), "utf-8")
    kept = json.loads(PROMISE.read_text("utf-8")) if PROMISE.exists() else {}
    lines = [f"  {json.dumps(name)}: {json.dumps(what)}" for name, what in {**surface(), **kept}.items()]
    PROMISE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
