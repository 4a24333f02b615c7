"""A clock that stands still unless a test moves it."""

from __future__ import annotations


class Clock:
    """Called, it says ``now``, in seconds."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
