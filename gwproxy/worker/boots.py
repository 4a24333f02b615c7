"""What the starts of a master's workers came to, so that one crash after the other is no busy loop.

Gunicorn replaces a worker at once, whatever it died of. One that a plugin kills while it starts (an exit, a crash in C)
would be forked again and again as fast as the machine can.
"""

from __future__ import annotations

import mmap

_SIZE = 1 << 16
FIRST, LONGEST = 0.25, 10.0  # seconds


class Boots:
    """One byte for each worker of a master, shared with all of them: whether it has served.

    Made in the master, before it forks.
    """

    def __init__(self) -> None:
        self._served = mmap.mmap(-1, _SIZE)

    def note_served(self, age: int) -> None:
        """Say that a worker started well.

        :param age: gunicorn's number of it, counted from 1.
        """
        self._served[age % _SIZE] = 1

    def failed(self, age: int, workers: int) -> int:
        """Return how many workers before this one have died without serving.

        :param workers: how many run at once: as many, and two that are added by hand, may just be starting.
        """
        self._served[age % _SIZE] = 0
        unserved = 0
        while unserved < min(age - 1, _SIZE - 1) and not self._served[(age - 1 - unserved) % _SIZE]:
            unserved += 1
        return max(0, unserved - workers - 2)


def delay(failed: int) -> float:
    """Return how many seconds a worker waits before it starts, after so many that failed."""
    return min(FIRST * 2.0 ** min(failed - 1, 16), LONGEST) if failed else 0.0
