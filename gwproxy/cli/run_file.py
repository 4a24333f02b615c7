"""``run.json`` in the state folder: where the gateway is that was started on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "run.json"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A gateway that ``gwproxy run`` started.

    :ivar pid: of ``gwproxy run`` itself.
    :ivar redis_url: of its store; it may hold credentials.
    :ivar prefix: of its keys.
    :ivar bind: the data listener, e.g. ``127.0.0.1:8080``.
    :ivar started: ISO 8601, UTC.
    :ivar admin_bind: the admin listener; empty if there is none.
    """

    pid: int
    redis_url: str
    prefix: str
    bind: str
    started: str
    admin_bind: str = ""


def write(state_dir: Path, info: RunInfo) -> None:
    """Write the file in one step, readable by its owner only; a folder that is not there is made, the same.

    :raises OSError: it cannot be written.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(state_dir / NAME, dataclasses.asdict(info))


def write_private(path: Path, held: Mapping[str, object]) -> None:
    """Write JSON in one step, readable by its owner only.

    :raises OSError: it cannot be written; what was there stays.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(held, file)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def read(state_dir: Path) -> RunInfo | None:
    """Return what runs here; None if nothing does, also if a gateway died without taking its file away."""
    try:
        held = json.loads((state_dir / NAME).read_bytes())
        known = {field.name for field in dataclasses.fields(RunInfo)}
        info = RunInfo(**{name: value for name, value in held.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return info if _lives(info.pid) else None


def remove(state_dir: Path) -> None:
    """Take the file away; it need not be there."""
    with contextlib.suppress(FileNotFoundError):
        (state_dir / NAME).unlink()


def _lives(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's process
    return True
