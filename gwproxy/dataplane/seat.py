"""A target's place among those of one description of an upstream."""

from __future__ import annotations

from collections.abc import Callable

from gwproxy.context import Context
from gwproxy.dataplane.target import LiveTarget

#: Picks the target of a request.
Chooser = Callable[[Context], LiveTarget]


class Seat:
    """What a description says of one of its targets, and its turn among them.

    :ivar weight: above 0, as configured; with that of DNS, of a service's.
    :ivar tier: 0 for those that get requests; of a service in DNS, the next ones do when none of the former is up.
    :ivar share: of the requests: the weight, less of it while the target comes back.
    :ivar current: the running sum of the smooth round robin.
    """

    __slots__ = ("current", "share", "target", "tier", "weight")

    def __init__(self, target: LiveTarget, weight: int = 1, tier: int = 0) -> None:
        self.target = target
        self.weight = weight
        self.tier = tier
        self.share: float = weight
        self.current = 0.0

    def refresh(self) -> None:
        """Take the share from the target's state."""
        self.share = self.weight * self.target.share
