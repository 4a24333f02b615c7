"""What a worker gives its plugins beside requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from gwproxy.agent import WorkerGateway
from gwproxy.store.shared import LocalStore


@pytest.fixture
def gateway(tmp_path: Path) -> WorkerGateway:
    return WorkerGateway(LocalStore(), "worker-1", tmp_path)


def test_a_thread_gives_back_what_the_function_returns_or_raises(gateway: WorkerGateway) -> None:
    assert gateway.in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        gateway.in_thread(divmod, 7, 0)
