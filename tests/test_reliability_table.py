"""docs/reliability.md and docs/security.md tell the truth: every row once, every test named is there, every claim has a row."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests import collecting

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
Tests = Mapping[str, frozenset[str]]

#: Every row there is; the numbers left out were never given. An id is never used again.
ROWS = """
P01-P03 P05-P10 P12-P23
N08-N12 N14-N21
H01-H20
J01 J02 J04 J05 J09 J11-J14 J16-J21 J23 J24 K01-K06 W01 W06-W11
L01-L11
C01-C10
A01-A18
B01-B06 B10-B15
U01-U06 U08 U09 U11 U12 U15 U16 U19 U20 U23 U24 U28-U35
Q03 Q05-Q07 Q11-Q15
G01-G17 G19-G30
X01 X03-X11 V01-V04 V10-V13
D01-D10
S01-S11
"""
RULES = "R1-R47"
#: For what is not there yet: a cache, API keys.
WITHOUT = "A01-A18 K01-K06 R29"

_ID = re.compile(r"(?<![A-Za-z0-9%])([A-DGHJ-LNPQSU-X][0-9]{2}|R[0-9]{1,2})(?![A-Za-z0-9])")
_LINE = re.compile(r"^\| ([A-Z][0-9]+) \|(.*)\|$", re.MULTILINE)


def expanded(ranges: str) -> Iterator[str]:
    """Yield ``P01 P02`` for ``P01-P02``."""
    for part in ranges.split():
        first, _, last = part.partition("-")
        width = len(first) - 1
        for number in range(int(first[1:]), int((last or first)[1:]) + 1):
            yield f"{first[0]}{number:0{width}}"


ALL = [*expanded(ROWS), *expanded(RULES)]


def ids_in(text: str) -> set[str]:
    """Return the ids in a text; ``R02`` and ``R2`` are one."""
    return {f"R{int(found[1:])}" if found[0] == "R" else found for found in _ID.findall(text)}


def table() -> dict[str, str]:
    """Return what the page says by row: the cell that tells what shows it."""
    return {row: cells.rpartition("|")[2].strip() for row, cells in _LINE.findall(PAGE.read_text())}


@pytest.fixture(scope="module")
def collected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tests:
    """Every test of the suite with its markers, by its name from below ``tests/`` on."""
    found = (
        collecting.markers(request.session) if _is_whole(request.config) else _collect(tmp_path_factory.mktemp("collected") / "tests.json")
    )
    tests = {name.removeprefix("tests/"): frozenset(marks) for name, marks in found.items()}
    return {name: marks for name, marks in tests.items() if not name.startswith(Path(__file__).name)}


def _is_whole(config: pytest.Config) -> bool:
    """Whether this run has collected everything, as CI does; collecting it again takes 15 s."""
    chosen = config.option.keyword or config.option.markexpr or config.option.deselect or config.option.ignore or config.option.ignore_glob
    return not chosen and [config.invocation_params.dir / name for name in config.args] == [ROOT / "tests"]


def _collect(to: Path) -> dict[str, list[str]]:
    plugins = ["-p", collecting.__name__, "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-o", "addopts=--import-mode=importlib", *plugins]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, collecting.TO: str(to)}, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, list[str]] = json.loads(to.read_text())
    return found


def showing(place: str, row: str, tests: Tests) -> dict[str, frozenset[str]]:
    """Return the tests at a place: those of a file or folder that have the row in their names, or all of a function."""
    if "::" in place:
        return {name: marks for name, marks in tests.items() if name.partition("[")[0] == place}
    below = (f"{place.rstrip('/')}/", f"{place}::")
    return {name: marks for name, marks in tests.items() if name.startswith(below) and row in ids_in(name.partition("::")[2])}


def test_every_row_is_there_once_and_in_order() -> None:
    assert [row for row, _ in _LINE.findall(PAGE.read_text())] == ALL


@pytest.mark.parametrize("row", ALL)
def test_a_row_is_shown_or_says_why_not(row: str, collected: Tests) -> None:
    said = table()[row]
    if row in expanded(WITHOUT):
        assert re.fullmatch(r"none: .{10,}", said)
        return
    places = re.findall(r"`([^`]+)`", said)
    elsewhere = ids_in(re.sub(r"`[^`]+`", "", said))
    assert places or (row[0] == "R" and elsewhere)
    assert elsewhere <= set(ALL) - set(expanded(WITHOUT)) - {row}
    shown = {place: showing(place, row, collected) for place in places}
    assert [place for place, tests in shown.items() if not tests] == []  # else the place has no test of this row
    marks = [marks for tests in shown.values() for marks in tests.values()]
    assert not {"skip", "skipif", "xfail"} & frozenset().union(*marks)
    assert row[0] == "R" or any("e2e" in each for each in marks) or re.search(r"\(units: .{5,}\)", said)  # through a running gateway


def test_no_test_claims_a_row_that_is_not_there(collected: Tests) -> None:
    unknown = {name: claims for name in collected if (claims := ids_in(name.partition("::")[2]) - set(ALL))}
    assert unknown == {}


def test_no_test_claims_a_row_that_is_said_to_have_none(collected: Tests) -> None:
    none = set(expanded(WITHOUT))
    assert {name for name in collected if ids_in(name.partition("::")[2]) & none} == set()


def test_every_default_that_protects_has_a_row_and_every_row_in_security_md_is_shown() -> None:
    page = PAGE.with_name("security.md").read_text()
    protects = page.partition("| default | setting |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(protects) > 20
    assert [line for line in protects if not ids_in(line.split("|")[-2])] == []
    assert ids_in(page) <= set(ALL) - set(expanded(WITHOUT))
