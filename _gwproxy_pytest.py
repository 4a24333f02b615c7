"""The pytest plugin of gwproxy: the fixture ``gateway``.

It is no module of the package, because every pytest in an environment with gwproxy imports it, and the package imports pydantic,
gevent and more. This imports nothing but what pytest has imported already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gwproxy.testing import InProcessGateway


@pytest.fixture
def gateway() -> Iterator[InProcessGateway]:
    """A gateway in this process: ``gateway.use(Plugin, {...})``, then ``gateway.get("/x")`` gives answer, upstream and trace."""
    from gwproxy.testing import InProcessGateway

    with InProcessGateway() as started:
        yield started
