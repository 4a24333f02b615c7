"""What the modules that setup.py compiles must not do, because mypyc would make something else of it than Python does."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPILED: list[str] = runpy.run_path(str(ROOT / "setup.py"), run_name="read")["COMPILED"].split()
HARMLESS = ("len", "max", "min")  # twice is as good as once


@pytest.mark.parametrize("module", COMPILED)
def test_no_bound_of_a_slice_does_anything(module: str) -> None:
    """mypyc (2.4) evaluates both bounds once to find that there is no quicker way, and again to go the slow one.

    ``rest = rest[send(rest):]`` sent everything twice.
    """
    tree = ast.parse((ROOT / "gwproxy" / f"{module}.py").read_text())
    slices = [node for node in ast.walk(tree) if isinstance(node, ast.Slice)]
    bounds = [bound for one in slices for bound in (one.lower, one.upper, one.step) if bound is not None]
    acting = [ast.unparse(node) for bound in bounds for node in ast.walk(bound) if _acts(node)]
    assert acting == []


@pytest.mark.parametrize("module", COMPILED)
def test_no_class_is_to_be_referred_to_weakly(module: str) -> None:
    """mypyc (2.4) passes over ``__weakref__`` in ``__slots__``, and ``weakref_slot``: the first weak reference is a ``TypeError``."""
    tree = ast.parse((ROOT / "gwproxy" / f"{module}.py").read_text())
    slots = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == "__weakref__"]
    asked = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "weakref_slot"]
    assert slots + asked == []


def _acts(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return not (isinstance(node.func, ast.Name) and node.func.id in HARMLESS)
    return isinstance(node, (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom))
