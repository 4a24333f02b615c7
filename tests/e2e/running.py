"""``gwproxy run`` and ``gwproxy demo`` as processes of their own, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import redis
import requests

from tests.e2e.conftest import SLOWER, until

COMMAND = [sys.executable, "-m", "gwproxy"]


def clean_environment(state: Path, env: dict[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without settings of gwproxy but its parser and transport, with a state folder and ``env``."""
    ours = ("GWPROXY_", "GW_", "JWT_", "GUNICORN_")
    kept = {name: value for name, value in os.environ.items() if name in SLOWER or not name.startswith(ours)}
    kept.pop("WEB_CONCURRENCY", None)
    return {**kept, "GWPROXY_STATE_DIR": str(state), "GWPROXY_ADMIN_BIND": "off", **(env or {})}  # its port is one for all tests


def call(folder: Path, *argv: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in ``folder``, with its state in ``folder/state``."""
    environ = clean_environment(folder / "state", env)
    command = [*COMMAND, *map(str, argv)]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)


class Running:
    """A command that serves, with its output in a file.

    :ivar state: its state folder, ``folder/state``.
    """

    def __init__(self, folder: Path, *argv: str | Path, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.environ = clean_environment(self.state, env)
        self.log = folder / f"output-{len(list(folder.glob('output-*')))}.log"
        with self.log.open("wb") as output:
            command = [*COMMAND, *map(str, argv)]
            self.child = subprocess.Popen(command, cwd=folder, env=self.environ, stdout=output, stderr=output)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def said(self, text: str, within: float = 20.0) -> str:
        """Wait until a line with ``text`` is in the output; return it."""

        def line() -> str:
            assert self.child.poll() is None or text in self.output(), self.output()
            return next((line for line in self.output().splitlines() if text in line), "")

        return str(until(line, f"{text!r} in the output", within))

    def ready(self) -> Running:
        self.said("gwproxy: ready: ")
        return self

    @property
    def url(self) -> str:
        found = re.search(r"ready: (http://\S+)", self.output())
        assert found
        return found[1]

    def get(self, path: str, **kwargs: object) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(self.url + path, timeout=20, **kwargs)  # type: ignore[arg-type]

    def store(self, folder: str = "") -> redis.Redis:
        """A client of the gateway's store, which is found as other commands find it."""
        held = json.loads((self.state / folder / "run.json").read_text())
        return redis.Redis.from_url(held["redis_url"], socket_timeout=5, decode_responses=True)

    def workers(self) -> list[dict[str, str]]:
        client = self.store()
        return [client.hgetall(key) for key in client.scan_iter("gw:worker:*")]  # type: ignore[misc]

    def processes(self, named: str = "") -> list[int]:
        """The processes that it has started, and those of theirs.

        :param named: a part of the command lines that are meant.
        """
        return sorted(pid for pid in started_in(self.state) if pid != self.child.pid and named in command_line(pid))

    def stop(self, number: int = signal.SIGTERM, within: float = 40.0) -> int:
        """Signal it and wait for its end; nothing may be left of it."""
        self.child.send_signal(number)
        status = self.child.wait(within)
        until(lambda: not started_in(self.state), "nothing to be left behind", within=10)
        return status

    def kill(self) -> None:
        """End it at once, whatever state it is in."""
        for pid in [*started_in(self.state), self.child.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.child.wait()


def started_in(state: Path) -> list[int]:
    """The live processes that have this state folder, or one in it, in their environment or as their own folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mark = f"GWPROXY_STATE_DIR={state}".encode() in (folder / "environ").read_bytes()
            mark = mark or (folder / "cwd").readlink().is_relative_to(state)  # the store has overwritten its environment with its title
            if mark and "\nState:\tZ" not in (folder / "status").read_text():
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
