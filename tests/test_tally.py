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
