"""What the gateway's regular expressions must not do, because one of the Pythons it runs on makes something else of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gwproxy"
SET = re.compile(r"\[(?:\\.|[^\]])*\]")  # of characters: what looks like a group in there is none
GROUP_REPEATED_POSSESSIVELY = re.compile(r"(?<!\\)\)(?:[*+?]|\{[0-9,]+\})\+")


@pytest.mark.parametrize("module", sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")))
def test_no_group_is_repeated_possessively(module: str) -> None:
    """Before Python 3.11.5 such a group may match what it should not: space after a header's value was taken for a part of it."""
    tree = ast.parse((PACKAGE / module).read_text())
    compiled = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile"]
    found = [ast.unparse(node) for node in compiled if GROUP_REPEATED_POSSESSIVELY.search(SET.sub(".", ast.unparse(node.args[0])))]
    assert found == []
