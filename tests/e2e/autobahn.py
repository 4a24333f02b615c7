"""Autobahn's test suite of WebSocket: found, installed, run. It is what implementations of RFC 6455 are judged by.

Its program, ``wstest``, runs on Python 2.7 only: the release of 2025 does not import on anything else either. The interpreter is
what ``AUTOBAHN_PYTHON`` names, else ``python2.7`` of the PATH, else one that pyenv has (``pyenv install 2.7.18``).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parents[2] / ".venv-autobahn"
RELEASE = "autobahntestsuite==0.8.2"
#: What Autobahn calls passed. ``NON-STRICT``: a right answer at an unusual moment; ``INFORMATIONAL``: there is no wrong one.
PASSED = frozenset(("OK", "NON-STRICT", "INFORMATIONAL"))


def interpreter() -> str | None:
    """Return a Python 2.7 that runs and has pip; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [os.environ.get("AUTOBAHN_PYTHON"), shutil.which("python2.7"), *sorted(pyenv.glob("versions/2.7*/bin/python2.7"))]
    for candidate in filter(None, candidates):
        with contextlib.suppress(OSError):
            if subprocess.run([str(candidate), "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
                return str(candidate)
    return None


def environment() -> dict[str, str]:
    """Return the environment its program runs in: Python 2.7 has no virtual environments, but a folder of the user's."""
    return {**os.environ, "PYTHONUSERBASE": str(PLACE), "PYTHONWARNINGS": "ignore", "PIP_NO_WARN_SCRIPT_LOCATION": "1"}


def installed(python: str) -> str:
    """Install the suite, unless it was before; return the path of its program."""
    complete = PLACE / "complete"
    if not complete.exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir()
        command = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", "--user", RELEASE]
        subprocess.run(command, env=environment(), cwd=PLACE, check=True, timeout=300)
        complete.touch()
    return str(PLACE / "bin" / "wstest")


def fuzz(program: str, folder: Path, url: str, cases: Sequence[str], left_out: Sequence[str] = ()) -> Mapping[str, Mapping[str, Any]]:
    """Let the fuzzing client play its cases against ``url``; return each one's result, by its number such as ``5.19``."""
    specification = {
        "outdir": str(folder / "reports"),
        "servers": [{"agent": "gateway", "url": url}],
        "cases": list(cases),
        "exclude-cases": list(left_out),
        "exclude-agent-cases": {},
    }
    path = folder / "fuzzingclient.json"
    path.write_text(json.dumps(specification))
    command = [program, "-m", "fuzzingclient", "-s", str(path)]
    ran = subprocess.run(command, env=environment(), cwd=folder, capture_output=True, text=True, timeout=3000, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, dict[str, Any]] = json.loads((folder / "reports" / "index.json").read_text())["gateway"]
    return found


def failed(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the cases that did not pass, with what Autobahn says of them."""
    return {number: case for number, case in results.items() if not {case["behavior"], case["behaviorClose"]} <= PASSED}
