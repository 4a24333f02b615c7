"""Where the time of a worker goes.

Of Python, with five plugins and while routes are re-applied, by py-spy; compiled, with and without plugins, and at one connection, by perf.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness import tools
from harness.bench import Bench
from harness.gateways import Gateway, Gwproxy, document
from harness.jobs.capacity import MANY
from harness.jobs.changes import publishing
from harness.jobs.comparisons import with_five
from harness.load import run
from harness.process import Child, Failed

TOP = 30
#: Threads that wait, and that py-spy takes for busy: of gevent's pool, and the watchdog of the loop.
SLEEPING = ("acquire_with_timeout ", "LoopWatchdog._watch (gwproxy/dataplane/blocked.py")
RATE = 250  # samples a second


def profile(bench: Bench, folder: Path) -> Path:
    """Write ``profile.md``, and ``profile.svg`` of Python, into ``folder``; return the former's path.

    :raises Failed: a profiler cannot be installed, or may not look into processes.
    """
    folder.mkdir(exist_ok=True)
    parts = []
    for name, tree in bench.trees.items():
        if next(tree.glob("*__mypyc.*.so"), None) is None:
            parts.append(_five_plugins(bench, folder, name, tree))
            parts.append(_reapplied(bench, name, tree))
        else:
            bare = partial(_bare, bench, name=name, tree=tree)
            parts.append(_compiled(bench, "bare job", bare))
            parts.append(_compiled(bench, "bare job at one connection", bare, connections=1))
            parts.append(_compiled(bench, "five-plugin job", partial(with_five, bench, name=name, tree=tree)))
    table = folder / "profile.md"
    table.write_text("\n".join(parts))
    return table


def _bare(bench: Bench, stack: ExitStack, name: str, tree: Path) -> Gateway:
    return Gwproxy(bench, stack, tree, document(bench), name=name)


def _five_plugins(bench: Bench, folder: Path, name: str, tree: Path) -> str:
    with ExitStack() as stack:
        gateway = with_five(bench, stack, name, tree)
        run(bench, gateway, bench.seconds)
        _spy(bench, gateway, "flamegraph", folder / "profile.svg")
        return top("five-plugin job", _spy(bench, gateway, "raw", gateway.folder / "stacks.txt"), tree)


def _reapplied(bench: Bench, name: str, tree: Path) -> str:
    """Sample a worker while one of 10,000 routes is changed every second."""
    with ExitStack() as stack:
        port = bench.redis(stack)
        texts = [document(bench, MANY, marks=[f"/mark-{n}"]) for n in (0, 1)]
        gateway = Gwproxy(bench, stack, tree, texts[0], name=name, redis=port)
        files = [gateway.write(f"document-{n}.json", text) for n, text in enumerate(texts)]
        with publishing(bench, gateway, port, files):
            run(bench, gateway, bench.seconds + 2)  # the first change differs in every line
            stacks = _spy(bench, gateway, "raw", gateway.folder / "stacks.txt")
        return top("bare job, one of 10,000 routes changed every second", stacks, tree)


def _spy(bench: Bench, gateway: Gateway, kind: str, output: Path) -> str:
    """Sample a worker under load; return what py-spy has written."""
    (worker,) = gateway.child.workers()
    seconds = bench.seconds * 2
    command = [str(tools.py_spy()), "record", "-p", str(worker), "-d", str(seconds), "-r", str(RATE), "-f", kind, "-o", str(output)]
    with Child(command, bench.place("py-spy") / "output.log", bench.load_cores) as spy:
        run(bench, gateway, seconds + 1)
        if spy.wait(60) != 0:
            raise Failed(f"py-spy: {spy.tail()}")
    return output.read_text()


def _compiled(bench: Bench, job: str, serve: Callable[[ExitStack], Gateway], connections: int | None = None) -> str:
    """Sample a compiled worker: its functions are C, and the interpreter is one of its libraries."""
    program, place = tools.perf(), bench.place("perf")
    samples = place / "samples"
    with ExitStack() as stack:
        gateway = serve(stack)
        (worker,) = gateway.child.workers()
        run(bench, gateway, bench.seconds)
        command = [
            program,
            "record",
            "-q",
            "-e",
            "cpu-clock",
            "-F",
            "999",
            "--call-graph",
            "dwarf,8192",
            "-p",
            str(worker),
            "-o",
            str(samples),
        ]
        with Child([*command, "--", "sleep", str(bench.seconds * 2)], place / "output.log", bench.load_cores) as perf:
            run(bench, gateway, bench.seconds * 2 + 1, connections)
            if perf.wait(120) != 0:
                raise Failed(f"perf: {perf.tail()}")
    asked = [program, "report", "-i", str(samples), "--stdio", "-g", "none", "--no-inline"]
    whole = subprocess.run([*asked, "--children"], capture_output=True, text=True, check=True).stdout
    libraries = subprocess.run([*asked, "--no-children", "--sort", "dso"], capture_output=True, text=True, check=True).stdout
    return _c_functions(job, whole, libraries)


def _c_functions(job: str, whole: str, libraries: str) -> str:
    """Return a report of perf in Markdown: the shares of libraries, and of compiled functions with what they call."""
    lines = [f"## Compiled, the {job}, by perf", "", "| In | share |", "| --- | --- |"]
    for share, library in re.findall(r"^\s+([\d.]+%)\s+(\S+)", libraries, re.MULTILINE)[:8]:
        lines.append(f"| {_library(library)} | {share} |")
    lines += ["", "| With what they call | share |", "| --- | --- |"]
    for share, function in re.findall(r"^\s+([\d.]+%).*\] CPyDef_(\S+)", whole, re.MULTILINE)[:TOP]:
        lines.append(f"| `{function.replace('___', '.')}` | {share} |")
    return "\n".join(lines) + "\n"


def _library(name: str) -> str:
    kinds = {
        "libpython": "the interpreter's own C (objects, dicts, memory)",
        "[kernel": "the kernel (sockets)",
        "gwproxy__mypyc": "gwproxy, compiled",
    }
    return next((kind for start, kind in kinds.items() if name.startswith(start)), f"`{name.partition('.')[0]}`")


def top(job: str, stacks: str, tree: Path) -> str:
    """Return the entries with the most samples, in Markdown: by themselves, and with what they call.

    :param job: what was sampled.
    :param stacks: lines of frames, outermost first, with a number of samples.
    """
    alone: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        names = [_short(frame, tree) for frame in frames.split(";")]
        if names[-1].startswith(SLEEPING):
            continue
        alone[names[-1]] += int(count)
        for name in set(names):
            whole[name] += int(count)
    total = sum(alone.values()) or 1
    parts = [f"## Python, the {job}, by py-spy\n\n{total} samples of one worker."]
    for title, counts in (("By themselves", alone), ("With what they call", whole)):
        lines = [f"| {title} | share |", "| --- | --- |"]
        lines += [f"| `{name}` | {count / total:.1%} |" for name, count in counts.most_common(TOP)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _short(frame: str, tree: Path) -> str:
    """Return a frame's function and file, without the line, the process, and where packages lie."""
    frame = frame.replace(f"{tree}/", "")
    frame = re.sub(r"(/\S*)?/(site-packages|lib/python3\.\d+)/", "", frame)
    return re.sub(r":\d+\)$", ")", frame)
