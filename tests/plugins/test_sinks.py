"""Where log entries go: bounded, in whole lines, and never at the expense of a request."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gwproxy.plugins import sinks
from gwproxy.plugins.sinks import Lines, SinkConfig, Sinks, write_file, write_stdout


class Gateway:
    """A worker whose background runs when the test says so."""

    def __init__(self) -> None:
        self.store = self
        self.logged: list[tuple[str, bytes, int]] = []
        self.background: list[Callable[[], object]] = []

    def log(self, name: str, entry: bytes, *, keep: int) -> None:
        self.logged.append((name, entry, keep))

    def spawn(self, function: Callable[..., object]) -> None:
        self.background.append(function)

    def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def run_background(self) -> None:
        while self.background:
            self.background.pop(0)()


def test_defaults_are_those_of_the_contract():
    assert (SinkConfig().sinks, SinkConfig().file) == (("redis",), None)


@pytest.mark.parametrize(
    "fields",
    [
        {"sinks": []},
        {"sinks": ["syslog"]},
        {"sinks": "stdout"},
        {"sinks": ["file"]},
        {"file": "/var/log/a"},
        {"sinks": ["file"], "file": "relative.log"},
        {"sinks": ["file"], "file": "/folder/"},
        {"sinks": ["file"], "file": "/a\x00b"},
    ],
)
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        SinkConfig.model_validate(fields)


def test_an_entry_goes_to_every_sink(tmp_path, capfd):
    gateway = Gateway()
    path = tmp_path / "log"
    to = Sinks(gateway, "some_log")
    to.write(SinkConfig(sinks=("redis", "stdout", "file"), file=str(path)), b'{"a":1}')
    gateway.run_background()
    assert gateway.logged == [("some_log", b'{"a":1}', 10_000)]
    assert capfd.readouterr().out == '{"a":1}\n'
    assert path.read_bytes() == b'{"a":1}\n'


def test_configurations_with_one_file_share_its_queue(tmp_path):
    gateway = Gateway()
    to = Sinks(gateway, "log")
    for number in range(3):
        to.write(SinkConfig(sinks=("file",), file=str(tmp_path / "log")), b"%d" % number)
    assert len(gateway.background) == 1
    gateway.run_background()
    assert (tmp_path / "log").read_bytes() == b"0\n1\n2\n"


def test_S11_queues_of_files_that_no_configuration_names_any_more_are_let_go_of(tmp_path):
    gateway = Gateway()
    to = Sinks(gateway, "k")
    to.write(SinkConfig(sinks=("file",), file=str(tmp_path / "waits")), b"entry")
    waiting, gateway.background = gateway.background, []
    for number in range(1000):
        to.write(SinkConfig(sinks=("file",), file=str(tmp_path / str(number))), b"entry")
        gateway.run_background()
    assert len(to._lines) <= sinks.MOST_QUEUES
    to.flush()
    assert waiting
    assert (tmp_path / "waits").read_bytes() == b"entry\n"


def test_a_worker_that_stops_writes_what_waits(tmp_path):
    to = Sinks(Gateway(), "log")
    for name in ("a", "b"):
        to.write(SinkConfig(sinks=("file",), file=str(tmp_path / name)), name.encode())
    to.flush()
    assert (tmp_path / "a").read_bytes() == b"a\n"
    assert (tmp_path / "b").read_bytes() == b"b\n"


def test_a_rotated_file_is_followed(tmp_path):
    path = tmp_path / "log"
    write_file(str(path), [b"1\n"])
    path.rename(tmp_path / "log.1")
    write_file(str(path), [b"2\n"])
    assert [(tmp_path / name).read_bytes() for name in ("log.1", "log")] == [b"1\n", b"2\n"]
    assert path.stat().st_mode & 0o007 == 0, "others cannot read it"


def test_a_file_is_written_again_when_it_can_be(tmp_path, caplog):
    gateway = Gateway()
    path = tmp_path / "later" / "log"
    lines = Lines(gateway, str(path), lambda batch: write_file(str(path), batch))
    for _ in range(3):
        lines.put(b"lost\n")
        gateway.run_background()
    path.parent.mkdir()
    lines.put(b"kept\n")
    gateway.run_background()
    assert path.read_bytes() == b"kept\n"
    assert lines.dropped == 3
    assert [record.getMessage().split(" reason")[0] for record in caplog.records] == [f"log_lines_dropped sink={path} dropped=1"]


def test_a_full_queue_drops_and_counts_and_recovers(monkeypatch):
    monkeypatch.setattr(sinks, "MOST_BYTES", 30)
    gateway, written = Gateway(), []
    lines = Lines(gateway, "stdout", written.extend)
    for number in range(10):
        lines.put(b"line %d...\n" % number)  # 10 bytes each
    assert lines.dropped == 7
    gateway.run_background()
    assert written == [b"line 0...\n", b"line 1...\n", b"line 2...\n"]
    lines.put(b"after\n")
    gateway.run_background()
    assert written[-1] == b"after\n"


def test_what_is_being_written_counts_as_waiting(monkeypatch):
    monkeypatch.setattr(sinks, "MOST_BYTES", 10)
    gateway = Gateway()
    lines = Lines(gateway, "stdout", lambda batch: lines.put(b"more\n"))
    lines.put(b"12345678\n")
    gateway.run_background()
    assert lines.dropped == 1


def test_batches_grow_while_one_is_written():
    gateway, batches = Gateway(), []

    def append(batch: list[bytes]) -> None:
        if not batches:
            for number in range(2500):
                lines.put(b"%d\n" % number)
        batches.append(batch)

    lines = Lines(gateway, "stdout", append)
    lines.put(b"first\n")
    gateway.run_background()
    assert [len(batch) for batch in batches] == [1, 1000, 1000, 500]
    assert batches[3][-1] == b"2499\n"


def test_standard_output_that_is_closed_drops(monkeypatch, tmp_path):
    closed = (tmp_path / "x").open("w")
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    gateway = Gateway()
    lines = Lines(gateway, "stdout", write_stdout)
    lines.put(b"x\n")
    gateway.run_background()
    assert lines.dropped == 1


def test_lines_of_several_workers_are_not_torn_on_a_pipe(tmp_path):
    reader, writer = os.pipe()
    program = "import sys; from gwproxy.plugins.sinks import write_stdout as w; w([sys.argv[1].encode() * 99 + b'\\n'] * 2000)"
    children = [subprocess.Popen([sys.executable, "-c", program, letter], stdout=writer) for letter in "abcd"]
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        lines = pipe.read().splitlines()
    assert [child.wait() for child in children] == [0] * 4
    assert len(lines) == 8000
    assert all(line == line[:1] * 99 for line in lines)


def test_a_pipe_that_nobody_reads_does_not_hold_the_worker_up(tmp_path: Path):
    program = textwrap.dedent("""
        from gevent import monkey; monkey.patch_all()
        import gevent, sys, time
        from gwproxy.plugins.sinks import SinkConfig, Sinks

        class Gateway:
            def spawn(self, function):
                gevent.spawn(function)
            def in_thread(self, function, *args):
                return gevent.get_hub().threadpool.apply(function, args)

        to, config = Sinks(Gateway(), "log"), SinkConfig(sinks=("stdout",))
        for number in range(300):
            to.write(config, b"x" * 1000)
            gevent.sleep(0.001)  # the loop goes on although the pipe holds 64 KiB
        print("alive", file=sys.stderr, flush=True)
        to.flush()
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stderr
        killer = threading.Timer(60, child.kill)
        killer.start()
        assert child.stderr.readline() == b"alive\n"
        lines = child.stdout.read().splitlines()
        killer.cancel()
    assert lines == [b"x" * 1000] * 300
