"""Something that reports like workers do, in a thread, until it is closed or the store is gone."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from gwproxy.errors import StoreUnavailable


class Reporting(ABC):
    """Reports once, and then fifty times a second."""

    def begin(self) -> None:
        """Report, and go on with it."""
        self._closed = threading.Event()
        self.report()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Report no more."""
        self._closed.set()
        self._thread.join(10)

    @abstractmethod
    def report(self) -> None:
        """Write what the workers say now."""

    def _run(self) -> None:
        while not self._closed.wait(0.02):
            try:
                self.report()
            except StoreUnavailable:
                return
