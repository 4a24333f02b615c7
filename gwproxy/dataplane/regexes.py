"""Many regexes against one path, in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import re2

_TOGETHER = 128  # regexes in one set: RE2 has 8 MiB for each set's states


class Regexes:
    """Regexes by rank, each anchored at the start of the path.

    :ivar members: regex and rank of each; empty: nothing has to be asked.

    A path costs one linear pass for every 128 regexes, whatever they are (RE2::Set), 2 us for a short one.
    """

    __slots__ = ("_groups", "members")

    def __init__(self) -> None:
        self.members: list[tuple[Any, int]] = []
        self._groups: list[_Group] = []

    def add(self, regex: Any, rank: int) -> None:
        """Add a regex compiled by :mod:`re2`; it counts once :meth:`compile` has run."""
        self.members.append((regex, rank))

    def compile(self) -> Iterator[None]:
        """Make the sets, yielding after each.

        :raises ValueError: a single regex is too large.
        """
        waiting = [self.members[start : start + _TOGETHER] for start in range(0, len(self.members), _TOGETHER)]
        while waiting:
            members = waiting.pop()
            try:
                self._groups.append(_Group(members))
            except re2.error:
                if len(members) == 1:
                    raise ValueError(f"a smaller regex than {members[0][0].pattern[:80]!r}") from None
                half = len(members) // 2
                waiting += [members[:half], members[half:]]
            yield

    def collect(self, path: str, found: list[int]) -> None:
        """Add the ranks of those that match, in any order."""
        for group in self._groups:
            group.collect(path, found)


class _Group:
    __slots__ = ("_members", "_ranks", "_set")

    def __init__(self, members: list[tuple[Any, int]]) -> None:
        """Compile a set.

        :raises re2.error: the regexes are too large for one set.
        """
        options = re2.Options()
        options.log_errors = False
        self._members = members
        self._ranks = [rank for _, rank in members]
        self._set = re2.Set.MatchSet(options)
        for regex, _ in members:
            self._set.Add(regex.pattern)
        # Always matches. A set that runs out of memory answers "none matches"; without this one that would be believed.
        self._set.Add("")
        self._set.Compile()

    def collect(self, path: str, found: list[int]) -> None:
        hits = self._set.Match(path)
        if not hits:
            found += [rank for regex, rank in self._members if regex.match(path) is not None]
            return
        always = len(self._ranks)
        found += [self._ranks[hit] for hit in hits if hit != always]
