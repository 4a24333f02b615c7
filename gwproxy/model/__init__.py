"""What a configuration says: frozen, validated, without I/O.

These models are the configuration reference: the documentation's tables are made from them.
"""

from gwproxy.model.base import Duration, Identifier, Model, Problem, Share, Shorthand, Size, Text, parse_size
from gwproxy.model.document import Consumer, Document
from gwproxy.model.route import METHODS, Mirror, OnError, PhaseBudgets, PluginBreaker, PluginRef, Route, RouteCanary, Split, Timeouts
from gwproxy.model.upstream import (
    DNS,
    TLS,
    Adaptive,
    Breaker,
    Concurrency,
    Ejection,
    Health,
    Retries,
    RetryBackoff,
    RetryBudget,
    Statuses,
    Target,
    Upstream,
)

__all__ = [
    "DNS",
    "METHODS",
    "TLS",
    "Adaptive",
    "Breaker",
    "Concurrency",
    "Consumer",
    "Document",
    "Duration",
    "Ejection",
    "Health",
    "Identifier",
    "Mirror",
    "Model",
    "OnError",
    "PhaseBudgets",
    "PluginBreaker",
    "PluginRef",
    "Problem",
    "Retries",
    "RetryBackoff",
    "RetryBudget",
    "Route",
    "RouteCanary",
    "Share",
    "Shorthand",
    "Size",
    "Split",
    "Statuses",
    "Target",
    "Text",
    "Timeouts",
    "Upstream",
    "parse_size",
]
