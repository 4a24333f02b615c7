"""What is left of a configuration that is served no more: freed in steps, as it was made."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from gwproxy.controlplane.parse import Parsed
from gwproxy.controlplane.text import SELDOM
from gwproxy.dataplane.snapshot import Snapshot


class Leftovers:
    """Holds the parts of a snapshot, and of what it was made from, until they are freed.

    10,000 routes that are let go of at once keep the worker for 15 ms.
    """

    def __init__(self, snapshot: Snapshot, parsed: Parsed) -> None:
        self._alive = weakref.ref(snapshot)
        self._router = snapshot.router
        self._lists: list[list[Any]] = [list(snapshot.routes), list(parsed.document.routes)]
        self._dicts: list[dict[Any, Any]] = [dict(parsed.configs), dict(parsed._built)]

    def free(self, pause: Callable[[], object]) -> None:
        """Free them; what a request still needs goes when the last one ends.

        :param pause: called every few steps.
        """
        if self._alive() is None:
            for number, _ in enumerate(self._router.dismantle()):
                if not number & SELDOM:
                    pause()
        for some in self._lists:
            while some:
                del some[~SELDOM:]
                pause()
        for more in self._dicts:
            while more:
                for _ in range(min(len(more), SELDOM + 1)):
                    more.popitem()
                pause()
