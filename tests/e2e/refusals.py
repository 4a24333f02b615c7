"""What ``gwproxy check`` says about entries of plugins that cannot be meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: The name of a plugin, its configuration, and a part of what is expected in its place.
Entry = tuple[str, dict[str, Any], str]


def check_refused(folder: Path, entries: Sequence[Entry]) -> str:
    """Check that each entry has one problem, told at its place, all at once; return all that was said."""
    plugins = [{"name": name, "config": config} for name, config, _ in entries]
    (folder / "gateway.json").write_text(json.dumps([{"path": "/", "upstream": "http://127.0.0.1:9", "plugins": plugins}]))
    environment = {name: value for name, value in os.environ.items() if name != "JWT_SECRET"}
    command = [sys.executable, "-m", "gwproxy", "check", "--json", "gateway.json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    problems = json.loads(done.stdout)["problems"]
    assert len(problems) == len(entries)
    for number, ((name, config, expected), problem) in enumerate(zip(entries, problems, strict=True)):
        assert problem["path"].startswith(f"routes[0].plugins[{number}].config"), (name, config)
        assert expected in problem["expected"], (name, config)
    return done.stdout + done.stderr
