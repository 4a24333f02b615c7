"""What a worker counts."""

from __future__ import annotations

from gwproxy.tally import Tally


def test_counts_by_name_and_label() -> None:
    tally = Tally()
    tally.add("heads_refused", "431")
    tally.add("heads_refused", "400", 2)
    tally.add("heads_refused", "431")
    tally.add("headers_dropped")
    assert tally.get("heads_refused", "431") == 2
    assert tally.get("heads_refused", "414") == 0
    assert list(tally.shown().items()) == [("headers_dropped", 1), ("heads_refused:400", 2), ("heads_refused:431", 2)]


def test_a_gauge_is_measured_when_it_is_asked_for() -> None:
    tally, open_files = Tally(), [1]
    tally.watch("open", lambda: len(open_files))
    tally.watch("closed", lambda: 0)
    assert list(tally.measured().items()) == [("closed", 0), ("open", 1)]
    open_files.append(2)
    assert tally.measured()["open"] == 2
    assert tally.shown() == {}
