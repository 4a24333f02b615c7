from __future__ import annotations

import io
import os
import pty
from datetime import UTC, datetime
from types import MappingProxyType

import pytest

from gwproxy.cli import output

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("2026-11-22T12:00:00Z", "0s"),
        ("2026-11-22T11:59:01.500Z", "58s"),
        ("2026-11-22T11:59:00", "1m"),
        ("2026-11-22T13:00:01+02:00", "59m"),
        ("2026-11-22T09:59:00Z", "2h"),
        ("2026-11-19T12:00:00Z", "3d"),
        ("2026-11-22T12:00:09Z", "0s"),
        ("", "-"),
        ("soon", "-"),
    ],
)
def test_ago(moment: str, said: str) -> None:
    assert output.ago(moment, NOW) == said


@pytest.mark.parametrize(
    ("text", "shown"), [("häß ☃", "häß ☃"), ("a\x1b[31mb\r\n", r"a\x1b[31mb\r\n"), ("\x9b\u202e", r"\x9b\u202e"), ("\ud800", r"\ud800")]
)
def test_printable(text: str, shown: str) -> None:
    assert output.printable(text) == shown


def test_counted() -> None:
    assert [output.counted(number, "route") for number in (0, 1, 2)] == ["0 routes", "1 route", "2 routes"]


def test_colours_on_terminals_only_and_never_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = pty.openpty()
    with os.fdopen(main, "rb"), os.fdopen(terminal, "w") as stream:
        monkeypatch.delenv("NO_COLOR", raising=False)
        assert output.coloured(stream)
        monkeypatch.setenv("NO_COLOR", "1")
        assert not output.coloured(stream)
        monkeypatch.setenv("NO_COLOR", "")  # no-color.org: when present and not an empty string
        assert output.coloured(stream)
    assert not output.coloured(io.StringIO())


def test_nothing_is_coloured_in_a_pipe_even_if_the_environment_asks_for_it(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    output.print_line(("red", "red"), " ", ("bold", "bold"))
    output.print_table(("a",), [["refused"]], {"refused": "red"})
    output.print_error("x")
    assert capsys.readouterr() == ("red bold\na\nrefused\n", "gwproxy: error: x\n")


def test_a_table_is_aligned_and_never_cut_in_a_pipe(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    output.print_table(("name", "n"), [["x" * 300, None], ["[b]y[/b] :smile:", 0], ["", "\x1b"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "x" * 300 + "  -"
    assert [line.split() for line in lines[2:]] == [["[b]y[/b]", ":smile:", "0"], ["-", r"\x1b"]]
    assert lines[2].index("0") == lines[1].index("-")


def test_json_of_what_configurations_hold(capsys) -> None:
    output.print_json({"a": MappingProxyType({"b": (1, 2)}), "c": frozenset([3]), "d": 1j}, line=True)
    assert capsys.readouterr().out == '{"a":{"b":[1,2]},"c":[3],"d":"1j"}\n'
    output.print_json([1])
    assert capsys.readouterr().out == "[\n  1\n]\n"
