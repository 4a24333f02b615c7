"""What blocks the loop of a worker is named, and cut off where that is possible; tests/e2e/test_plugin_faults.py has the rest."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

PREPARE = """
import logging, resource, signal, sys, threading, time
from gevent import monkey
if PATCHED:
    monkey.patch_all()
import gevent
from gwproxy import Plugin, hookimpl
from gwproxy.app import App
from gwproxy.dataplane.blocked import SIGNAL
from gwproxy.registry import Registry

logging.basicConfig(stream=sys.stdout, format="%(message)s")
native_sleep = monkey.get_original("time", "sleep")
app = App()
budgets, watchdog = app._budgets, app._loop_watchdog

def start():
    budgets.start()
    watchdog.start()

def spin(seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

class Spinning(Plugin):
    name = "spinning"
    @hookimpl
    def worker_started(self):
        spin()
"""


def said(code: str, *, patched: bool = True) -> str:
    """Run code in a process of its own, patched as a worker's; return what it printed and logged, in that order."""
    full = PREPARE.replace("PATCHED", str(patched)) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-u", "-c", full], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_X03_R33_a_lifecycle_hook_that_spins_at_boot_is_named_and_cut_off() -> None:
    out = said("""
        start()
        ((plugin, error),) = Registry.of(Spinning()).notify("worker_started", 1.5)
        print(plugin, type(error).__name__)
        while watchdog._reported:
            gevent.sleep(0.05)
    """)
    assert re.search(r"^worker_blocked plugin=spinning phase=worker_started route=None seconds=\d\.\d where=<string>:\d+$", out, re.M)
    assert "spinning BudgetExceeded" in out
    assert "worker_unblocked plugin=spinning phase=worker_started" in out


def test_a_line_of_the_plugins_own_is_named_where_a_library_computes_for_it() -> None:
    out = said("""
        import difflib
        class Comparing(Plugin):
            name = "comparing"
            @hookimpl
            def worker_started(self):
                while True:
                    difflib.SequenceMatcher(None, "ab" * 1000, "ba" * 1000).ratio()
        start()
        Registry.of(Comparing()).notify("worker_started", 1.0)
        gevent.sleep(0.3)
    """)
    assert re.search(r"^worker_blocked plugin=comparing \S+ \S+ seconds=0\.\d where=<string>:\d+ in=\S+difflib\.py:\d+$", out, re.M), out


def test_X11_what_no_plugin_blocks_is_the_gateways() -> None:
    """But not while the worker starts, and imports what it needs."""
    out = said("""
        start()
        native_sleep(0.8)
        print("boot is over")
        gevent.sleep(0.3)
        native_sleep(0.8)
        gevent.sleep(0.3)
        print(app.tally.shown())
    """)
    before, after = out.split("boot is over\n")
    assert before == ""
    assert re.search(r"^worker_blocked plugin=gateway phase=None route=None seconds=\d\.\d where=<string>:\d+$", after, re.M)
    assert "{'loop_blocked:gateway': 1}" in after


def test_a_busy_loop_that_comes_round_is_not_blocked() -> None:
    out = said("""
        start()
        def busy():
            for _ in range(10):
                spin(0.1)
                gevent.sleep(0)
        gevent.joinall([gevent.spawn(busy), gevent.spawn(busy)])
    """)
    assert out == ""


def test_the_signal_is_given_back() -> None:
    out = said("""
        start()
        print(signal.getsignal(SIGNAL) == watchdog._interrupt)
        watchdog.stop()
        print(signal.getsignal(SIGNAL) == signal.SIG_DFL)
    """)
    assert out.splitlines() == ["True", "True"]


ELSEWHERE = """
def serve():
    start()
    gevent.sleep(0.2)
    failures = Registry.of(Spinning()).notify("worker_started", 0.3)
    print([type(error).__name__ for name, error in failures])
spin.__defaults__ = (1.0,)
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("signal.signal(SIGNAL, print)\nserve()", "SIGURG has a handler already"),
        ("gevent.get_hub().threadpool.apply(serve)", "signal only works in main thread"),
    ],
)
def test_where_no_signal_may_be_taken_it_only_names(code: str, reason: str) -> None:
    out = said(ELSEWHERE + code)
    assert f"hooks_not_interruptible reason={reason}" in out
    assert "worker_blocked plugin=spinning" in out
    assert "[]" in out  # it spun to its end


def test_R33_no_thread_is_no_reason_not_to_start() -> None:
    """The stack of a thread does not fit into what memory is left."""
    out = said("""
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (1 << 20), resource.RLIM_INFINITY))
        start()
        print("started")
    """)
    assert "loop_watchdog_failed reason=can't start new thread" in out
    assert "started" in out


def test_without_gevent_it_does_nothing() -> None:
    out = said(
        """
        watchdog.start()
        native_sleep(0.6)
        print(signal.getsignal(SIGNAL) == signal.SIG_DFL, len(sys._current_frames()))
    """,
        patched=False,
    )
    assert out == "True 1\n"
