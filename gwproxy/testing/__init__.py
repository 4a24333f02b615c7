"""What authors of plugins test with: the gateway in one process, an upstream, a clock and a store of their own.

With pytest, the fixture ``gateway`` is an :class:`InProcessGateway`; it comes with the package, and nothing of this is
imported before a test asks for it. ``pip install 'gwproxy[testing]'`` installs pytest as well.
"""

from gwproxy.errors import ConfigurationRefused
from gwproxy.testing.answer import Answer
from gwproxy.testing.clock import Clock
from gwproxy.testing.gateway import UPSTREAM, InProcessGateway
from gwproxy.testing.store import MemoryStore
from gwproxy.testing.trace import Traced, Verdict
from gwproxy.testing.upstream import FakeUpstream, Reply, Seen

__all__ = [
    "UPSTREAM",
    "Answer",
    "Clock",
    "ConfigurationRefused",
    "FakeUpstream",
    "InProcessGateway",
    "MemoryStore",
    "Reply",
    "Seen",
    "Traced",
    "Verdict",
]
