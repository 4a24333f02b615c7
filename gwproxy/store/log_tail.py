"""Reading a list that grows at its end and is trimmed at its start, entry by entry."""

from __future__ import annotations

from collections.abc import Callable

_REMEMBERED = 64  # entries by which the place in the list is found again
_FIRST_READ = 256


class LogTail:
    """Returns what is new in a list since it was last asked.

    The place is found again by the last 64 entries seen, so entries may be equal to each other; among more equal ones in
    a row than that, new ones are not noticed. What was trimmed between two polls is lost.

    :param read: returns the newest ``n`` entries, newest last.
    """

    def __init__(self, read: Callable[[int], list[bytes]]) -> None:
        self._read = read
        self._seen: list[bytes] = []
        self._whole = True  # what was seen is the whole list

    def start(self, count: int) -> list[bytes]:
        """Return the newest ``count`` entries, and go on from there."""
        entries = self._read(max(count, _FIRST_READ))
        self._remember(entries)
        return entries[-count:] if count > 0 else []

    def poll(self) -> list[bytes]:
        """Return the entries that came since, oldest first. If the reading fails, the next poll has them."""
        size = _FIRST_READ
        while True:
            entries = self._read(size)
            complete = len(entries) < size
            at = self._place(entries, complete)
            if at is not None:
                self._remember(entries)
                return entries[at:]
            size *= 8

    def _remember(self, entries: list[bytes]) -> None:
        self._whole = len(entries) <= _REMEMBERED
        self._seen = entries[-_REMEMBERED:]

    def _place(self, entries: list[bytes], complete: bool) -> int | None:
        """Return the index of the first new entry; None: it is before those that were read."""
        seen = self._seen
        if self._whole and complete and entries[: len(seen)] == seen:
            return len(seen)
        for end in range(len(entries), len(seen) - 1, -1):
            if seen and entries[end - len(seen) : end] == seen:
                return end
        if not complete:
            return None
        # Some of what was seen is trimmed, or all of it: then everything is new.
        return next((size for size in range(len(seen) - 1, 0, -1) if entries[:size] == seen[-size:]), 0)
