"""One piece of a document against one model, with what the environment adds: types are known only here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from gwproxy.controlplane import wording
from gwproxy.controlplane.environment import Part, replaced, without
from gwproxy.controlplane.places import Path
from gwproxy.controlplane.report import Finding, Report
from gwproxy.controlplane.yamltext import plain

M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], part: Part, report: Report) -> M | None:
    """Return ``part`` as a ``model``; None, and why in the report, if it is none.

    A reference whose text is refused as a string is offered again as the scalar it spells. What could not be resolved is
    not checked: its field has its default, and if it has none, None is returned and nothing reported.
    """
    try:
        return _validated(model, part.value)
    except ValidationError as error:
        refused = error
    if wrong := [path for path in wording.places(refused, part) if part.whole(path)]:
        part = _changed(part, wrong, lambda value, path: replaced(value, path, _spelled))
        try:
            return _validated(model, part.value)
        except ValidationError as error:
            refused = error
    found = [finding for finding in wording.findings(refused, part, (model,)) if not _undecided(finding, part)]
    report.extend(found)
    if twice := [finding.path for finding in found if finding.key and finding.found.endswith(wording.GIVEN_TWICE)]:
        # Nothing else of such an object was looked at; all problems are told at once.
        validate(model, _changed(part, twice, without), report)
    return None if found else _with_defaults(model, part, refused)


def _undecided(finding: Finding, part: Part) -> bool:
    """Whether a finding is about a value that could not be resolved, or about an object as a whole that holds one."""
    if finding.found == "nothing":  # a missing key is missing, whatever its neighbours are
        return finding.path in part.unset
    return any(path[: len(finding.path)] == finding.path for path in part.unset)


def _validated(model: type[M], value: Any) -> M:
    return model.model_validate_json(orjson.dumps(value))  # in JSON mode strict lets a list become a tuple, and no more


def _with_defaults(model: type[M], part: Part, refused: ValidationError) -> M | None:
    unset = [path for path in wording.places(refused, part) if path in part.unset and len(path) > len(part.path)]
    try:
        return _validated(model, _changed(part, unset, without).value)
    except ValidationError:
        return None


def _changed(part: Part, paths: list[Path], change: Callable[[Any, Path], Any]) -> Part:
    value = part.value
    # From the last to the first: what is taken out of a list moves what follows.
    for path in sorted(paths, key=lambda path: [f"{step:09}" if isinstance(step, int) else step for step in path], reverse=True):
        value = change(value, path[len(part.path) :])
    return Part(part.path, value, part.references, part.unset, part.secrets)


def _spelled(text: Any) -> Any:
    try:
        return plain(text)
    except ValueError:
        return text
