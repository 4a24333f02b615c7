"""What a worker serves: one immutable object that a request reads once and keeps to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gwproxy.dataplane.compiled_route import EMPTY_CHAIN, Chain, CompiledRoute
from gwproxy.dataplane.router import Router
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.model import Consumer, Document

__all__ = ["EMPTY_CHAIN", "Chain", "CompiledRoute", "Consumers", "Snapshot"]


class Consumers:
    """Consumers by what they match. Those that match by ``user_id`` alone cost one lookup, others a pass over them."""

    def __init__(self, consumers: Sequence[Consumer] = ()) -> None:
        self._by_user = {c.match["user_id"]: c for c in reversed(consumers) if set(c.match) == {"user_id"}}
        self._others = tuple(c for c in consumers if set(c.match) != {"user_id"})

    def find(self, state: Mapping[str, Any]) -> Consumer | None:
        """Return the consumer whose ``match`` the state holds; None if there is none."""
        for consumer in self._others:
            if all(state.get(name) == value for name, value in consumer.match.items()):
                return consumer
        return self._by_user.get(state.get("user_id", ""))


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Snapshot:
    """Everything a request touches of a configuration.

    :ivar revision: of the store; 0 if it has none. Of a candidate: the one that it was made from.
    :ivar digest: SHA-256 of the configuration's bytes, in hex.
    :ivar unmatched: the global plugins' chain, for requests that match no route.
    :ivar secrets: of all plugins' configurations, the longest first: no log may hold them.
    :ivar upstreams: every one that a route refers to, once.
    """

    revision: int
    digest: str
    document: Document
    router: Router[CompiledRoute]
    routes: tuple[CompiledRoute, ...] = field(repr=False)
    consumers: Consumers
    unmatched: Chain
    secrets: tuple[str, ...] = field(default=(), repr=False)
    upstreams: tuple[LiveUpstream, ...] = field(default=(), repr=False)
