"""Where the time of a worker goes in the five-plugin job, by py-spy: a flame graph, and a list of its top entries."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from harness import tools
from harness.bench import Bench
from harness.jobs.comparisons import with_five
from harness.load import run
from harness.process import Child, Failed

TOP = 30
#: Threads that wait, and that py-spy takes for busy: of gevent's pool, and the watchdog of the loop.
SLEEPING = ("acquire_with_timeout ", "LoopWatchdog._watch (gwproxy/dataplane/blocked.py")
RATE = 250  # samples a second


def profile(bench: Bench, folder: Path) -> Path:
    """Write ``profile.svg`` and ``profile.md`` into ``folder``; return the latter's path.

    :raises Failed: py-spy cannot be installed, or may not look into processes.
    """
    program = tools.py_spy()
    folder.mkdir(exist_ok=True)
    stacks = bench.place("profile") / "stacks.txt"
    name, tree = list(bench.trees.items())[-1]
    with ExitStack() as stack:
        gateway = with_five(bench, stack, name, tree)
        (worker,) = gateway.child.workers()
        run(bench, gateway, bench.seconds)
        for kind, output in (("flamegraph", folder / "profile.svg"), ("raw", stacks)):
            seconds = bench.seconds * 2
            command = [str(program), "record", "-p", str(worker), "-d", str(seconds), "-r", str(RATE), "-f", kind, "-o", str(output)]
            with Child(command, bench.place("py-spy") / "output.log", bench.load_cores) as spy:
                run(bench, gateway, seconds + 1)
                if spy.wait(60) != 0:
                    raise Failed(f"py-spy: {spy.tail()}")
    table = folder / "profile.md"
    table.write_text(top(stacks.read_text(), tree))
    return table


def top(stacks: str, tree: Path) -> str:
    """Return the entries with the most samples, in Markdown: by themselves, and with what they call.

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
    parts = [f"{total} samples of one worker that serves the five-plugin job, by py-spy."]
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
