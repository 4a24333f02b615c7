"""What the tests of the two logs share."""

from __future__ import annotations

from typing import Any

import pytest


class Gateway:
    """A worker of which only the log in the store matters."""

    def __init__(self) -> None:
        self.store: Any = self
        self.logged: list[tuple[str, bytes, int]] = []

    def log(self, name: str, entry: bytes, *, keep: int) -> None:
        self.logged.append((name, entry, keep))


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()
