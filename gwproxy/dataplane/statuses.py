"""Sets of statuses as configurations write them."""

from __future__ import annotations

from collections.abc import Iterable


def codes(written: Iterable[str]) -> frozenset[int]:
    """Return the statuses that ``503`` and ``5xx`` stand for."""
    found: set[int] = set()
    for text in written:
        found.update(range(int(text[0]) * 100, int(text[0]) * 100 + 100) if text.endswith("xx") else (int(text),))
    return frozenset(found)
