"""What pydantic found, in the words of a configuration's author."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from gwproxy.controlplane.environment import Part
from gwproxy.controlplane.masking import masked_reference, scrub, shown
from gwproxy.controlplane.places import Path, same_key
from gwproxy.controlplane.report import Finding, did_you_mean
from gwproxy.controlplane.shape import Hints, inside, is_secret, models

_PATTERNS = {
    r"^[A-Z][A-Z0-9-]{0,19}$": "a method in upper case, such as GET",
    r"^[A-Za-z0-9][A-Za-z0-9._:-]*$": "letters, digits, '.', '_', ':' and '-', a letter or digit first",
    r"^(header:[A-Za-z0-9-]+|cookie:[^=;\s]+|client|path)$": "header:NAME, cookie:NAME, client or path",
    r"^/": "a path that begins with '/'",
    r"^[^,\s]+$": "a name without commas and spaces",
}

# {...} are pydantic's own names in the error's context.
_TEXTS = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
    "none_required": "null",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "string_too_short": "at least {min_length} character(s)",
    "string_too_long": "at most {max_length} character(s)",
    "too_short": "at least {min_length} item(s)",
    "too_long": "at most {max_length} item(s)",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "value_error": "{error}",
    "assertion_error": "{error}",
}
_OWN_WORDS = {"value_error", "assertion_error"}
_QUOTED = re.compile(r"'([^']*)'")

#: The end of what is found where a key has two spellings in one object.
GIVEN_TWICE = "which is given twice"


def findings(error: ValidationError, part: Part, hints: Hints) -> list[Finding]:
    """Return what ``error`` says about ``part``, a finding for each place.

    What several branches of a union expected of one value is joined by "or".

    :param hints: the types the part was validated against.
    """
    made: dict[tuple[Path, bool], Finding] = {}
    for detail in error.errors(include_url=False):
        steps, _, value = _locate(part.value, detail["loc"])
        if detail["type"] in _OWN_WORDS and (twice := _given_twice(value, _at(steps, hints), (*part.path, *steps))):
            made.update({(finding.path, True): finding for finding in twice})
            continue
        if detail["type"] == "too_short" and isinstance(value, (list, dict)) and len(value) >= detail["ctx"]["min_length"]:
            continue  # items that are wrong are not counted, and have their own findings
        finding = _finding(detail, part, hints)
        same = made.get((finding.path, finding.key))
        if same is None:
            made[finding.path, finding.key] = finding
        elif finding.expected not in same.expected.split(" or "):
            made[finding.path, finding.key] = Finding(same.path, same.found, f"{same.expected} or {finding.expected}", same.key)
    return list(made.values())


def places(error: ValidationError, part: Part) -> set[Path]:
    """Return the paths, in the document, of the values that ``error`` is about."""
    return {(*part.path, *_locate(part.value, detail["loc"])[0]) for detail in error.errors(include_url=False)}


def _finding(detail: Any, part: Part, hints: Hints) -> Finding:
    kind, location = detail["type"], detail["loc"]
    steps, rest, value = _locate(part.value, location)
    path = (*part.path, *steps)
    if kind == "missing":
        return Finding(path, "nothing", f"the key {str(rest[-1] if rest else location[-1])!r}, which is required")
    if kind == "extra_forbidden":
        return Finding(path, f"the unknown key {steps[-1]!r}" if steps else "an unknown key", _known_keys(steps, hints), key=True)
    secret = any(is_secret(step, found) for step, found in _along(steps, hints))
    if (written := part.references.get(path)) is not None:
        found = f"the value of {masked_reference(written) if secret else written}"
    else:
        found = shown(value, secret=secret)
    expected = _expected(detail, value, secret=secret)
    if kind in _OWN_WORDS or kind not in _TEXTS:  # a plugin's own text may repeat what it was given
        expected = scrub(expected, {*part.secrets, *_secrets(value, _at(steps, hints), secret=secret)})
    return Finding(path, found, expected, key=rest[-1:] == ("[key]",))


def _locate(tree: Any, location: tuple[str | int, ...]) -> tuple[Path, tuple[str | int, ...], Any]:
    """Follow pydantic's location down ``tree``; return the path, what of the location follows it, and the value there.

    Locations also name branches of unions and validators, which are no keys.
    """
    path: list[str | int] = []
    rest: list[str | int] = []
    for step in location:
        if isinstance(tree, dict) and (key := _key(tree, step)) is not None:
            path.append(key)
            tree, rest = tree[key], []
        elif isinstance(tree, list) and isinstance(step, int) and step < len(tree):
            path.append(step)
            tree, rest = tree[step], []
        else:
            rest.append(step)
    return tuple(path), tuple(rest), tree


def _key(tree: dict[str, Any], step: str | int) -> str | None:
    if step in tree:
        return str(step)
    return next((key for key in tree if same_key(key, str(step))), None)


def _along(steps: Path, hints: Hints) -> Iterator[tuple[str | int, Hints]]:
    for step in steps:
        hints = inside(hints, step)
        yield step, hints


def _at(steps: Path, hints: Hints) -> Hints:
    for step in steps:
        hints = inside(hints, step)
    return hints


def _secrets(value: Any, hints: Hints, *, secret: bool) -> Iterator[str]:
    if isinstance(value, str) and secret:
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            below = inside(hints, key)
            yield from _secrets(item, below, secret=secret or is_secret(key, below))
    elif isinstance(value, list):
        below = inside(hints, 0)
        for item in value:
            yield from _secrets(item, below, secret=secret or is_secret("", below))


def _known_keys(steps: Path, hints: Hints) -> str:
    names = [field.alias or name for model in models(_at(steps[:-1], hints)) for name, field in model.model_fields.items()]
    if not names:
        return "no keys"
    return f"{'one of ' if len(names) > 1 else ''}{', '.join(names)}{did_you_mean(str(steps[-1]), names) if steps else ''}"


def _expected(detail: Any, value: Any, *, secret: bool) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return _PATTERNS.get(pattern, f"a string that matches {pattern}")
    text = _TEXTS.get(kind)
    if text is None:
        return _lowered(detail["msg"].removeprefix("Input should be ").removeprefix("Value should "))
    text = text.format_map({name: _whole(bound) for name, bound in context.items()})
    if kind == "literal_error" and isinstance(value, str) and not secret:
        text += did_you_mean(value, _QUOTED.findall(text))
    if kind == "string_type" and isinstance(value, (int, float)) and not secret:
        text += f" (in quotes: {_quoted(value)})"
    return text or "a valid value"


def _quoted(value: float) -> str:
    return f'"{str(value).lower() if isinstance(value, bool) else value}"'


def _whole(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _given_twice(value: Any, hints: Hints, path: Path) -> list[Finding]:
    # PluginConfig refuses such an object as a whole; the key is what its author looks for.
    if not isinstance(value, dict):
        return []
    names = [name for model in models(hints) for name in model.model_fields]
    forms = [[key for key in value if same_key(key, name)] for name in names]
    return [
        Finding((*path, keys[1]), f"the key {keys[1]!r}, {GIVEN_TWICE}", f"one of {keys[0]!r} and {keys[1]!r}", key=True)
        for keys in forms
        if len(keys) > 1
    ]
