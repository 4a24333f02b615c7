"""docs/write-a-plugin.md, followed literally: from an empty folder to a plugin that is live, changed and taken back."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import until
from tests.e2e.running import clean_environment, started_in
from tests.ports import free_port

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "write-a-plugin.md").read_text()
#: A block, after the paragraph that says where it belongs.
_STEP = re.compile(r"(?:^((?:(?!```)[^\n]+\n)+)\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What an environment for this page does not have before pip installs it, and what only slows pytest.
_NOT_THERE = (
    "gwproxy",
    "_gwproxy",
    "__editable__",
    "pip",
    "hypothesis",
    "_hypothesis",
    "schemathesis",
    "xdist",
    "pytest_xdist",
    "pytest_timeout",
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables by which pip finds gwproxy as a wheel of this tree, what that needs as installed already, and nothing anywhere else."""
    tree, house, there = (tmp_path_factory.mktemp(name) for name in ("tree", "house", "there"))
    shutil.copytree(ROOT / "gwproxy", tree / "gwproxy", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE", "_gwproxy_pytest.py"):
        shutil.copy(ROOT / name, tree)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(house), str(tree)]
    subprocess.run(build, check=True, timeout=120)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(_NOT_THERE):
            (there / entry.name).symlink_to(entry)
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(house), "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return {**pip, "PYTHONPATH": str(there), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


class Terminal:
    """A shell in which somebody types line after line, and what it shows."""

    def __init__(self, folder: Path, env: dict[str, str], name: str) -> None:
        self.shown = folder / f"{name}.log"
        with self.shown.open("wb") as output:
            command = ["bash", "--noprofile", "--norc"]
            self.shell = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        self._numbers = itertools.count()

    def type(self, line: str) -> None:
        assert self.shell.stdin is not None
        self.shell.stdin.write(f"{line}\n".encode())
        self.shell.stdin.flush()

    def run(self, line: str) -> str:
        """Run a line to its end, which must be a good one; return what it showed."""
        before, mark = self.shown.stat().st_size, f"ended-{next(self._numbers)}:"
        self.type(line)
        self.type(f"printf '\\n%s%s\\n' {mark} $?")  # on a line of its own, also after what ends without a line's end
        until(lambda: re.search(rf"^{mark}\d+$", self._since(before), re.MULTILINE), f"the end of {line!r}", within=120)
        said, _, status = self._since(before).rpartition(mark)
        assert status.strip() == "0", f"{line}\n{said}"
        return said

    def _since(self, place: int) -> str:
        return self.shown.read_bytes()[place:].decode(errors="replace")

    def close(self) -> None:
        """Hang up: all that it has started is told to end."""
        os.killpg(self.shell.pid, signal.SIGTERM)
        self.shell.wait(10)


class Newcomer:
    """Somebody with two terminals who does what the page says.

    The ports of the page are other ones here: any of its own may be taken.
    """

    def __init__(self, folder: Path, index: dict[str, str]) -> None:
        self.folder = folder
        self.state = folder / "state"
        env = {**clean_environment(self.state, {"GWPROXY_ADMIN_BIND": f"127.0.0.1:{free_port()}"}), **index}
        self.here, self.there = Terminal(folder, env, "here"), Terminal(folder, env, "there")
        self.ports = {"8000": str(free_port()), "8080": str(free_port())}

    def follow(self) -> None:
        """Do everything, in order."""
        terminal = self.here
        for said, language, text in _STEP.findall(PAGE):
            terminal = self.there if "another terminal" in said else self.here
            if language == "sh":
                for line in self._own(text).splitlines():
                    self._do(terminal, line)
            else:
                named = re.search(r"Save as `([^`]+)`:\n$", said)
                assert named, f"a block of {language} that is saved nowhere: {text[:80]}"
                (self.folder / "agents" / "gwproxy-agents" / named[1]).write_text(self._own(text))

    def _do(self, terminal: Terminal, line: str) -> None:
        command, _, expected = (part.strip() for part in line.partition(" # "))
        if " run " in command:
            terminal.type(f"{command} --bind 127.0.0.1:{self.ports['8080']}")
            until(lambda: "gwproxy: waiting for a configuration" in terminal.shown.read_text(), "a gateway", within=60)
            return
        said = terminal.run(command)
        assert not expected or said.strip() == expected, f"{command}\n{said}"

    def _own(self, text: str) -> str:
        return re.sub("8000|8080", lambda match: self.ports[match[0]], text)

    def leave(self) -> None:
        self.here.close()
        self.there.close()
        until(lambda: not started_in(self.state), "nothing to be left behind", within=40)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, index: dict[str, str]) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path_factory.mktemp("newcomer"), index)
    yield newcomer
    newcomer.leave()


@pytest.mark.timeout(400)  # it is three minutes' typing
def test_the_page_leads_from_an_empty_folder_to_a_plugin_that_is_live(newcomer: Newcomer) -> None:
    newcomer.follow()


def test_the_gateway_has_never_been_restarted_nor_was_the_plugin_installed_beside_it(newcomer: Newcomer) -> None:
    shown = newcomer.there.shown.read_text()
    assert shown.count(" app_started ") == 2  # workers
    assert not list((newcomer.folder / "agents" / "gateway").rglob("*gwproxy_agents*"))


def test_every_command_was_one_that_was_run() -> None:
    """A block that the pattern of this test passes over would be one that nobody has tried."""
    assert len(_STEP.findall(PAGE)) * 2 == len(re.findall("^```", PAGE, re.MULTILINE))
