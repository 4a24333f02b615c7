"""Past revisions: what each changed, and which of them each field of a route comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gwproxy.controlplane.difference import Difference, FieldChange, Kind, difference, flat, items
from gwproxy.controlplane.masking import Finder
from gwproxy.controlplane.text import read
from gwproxy.errors import CommandFailed, ConfigurationRefused
from gwproxy.store.configuration import Revision


@dataclass(frozen=True, slots=True)
class PastChange:
    """A revision, and what it changed.

    :ivar difference: to the revision before; None if that is no longer kept, or if either cannot be read.
    """

    revision: Revision
    difference: Difference | None

    @property
    def summary(self) -> str:
        """What it changed, in a line."""
        return "what it changed is not known" if self.difference is None else self.difference.summary()

    def __str__(self) -> str:
        comment = f" ({self.revision.comment})" if self.revision.comment else ""
        by, at = self.revision.actor or "unknown", self.revision.at or "an unknown time"
        return f"revision {self.revision.revision} by {by} at {at}{comment}: {self.summary}"

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON's types, without the configuration."""
        return {
            **described(self.revision),
            "summary": self.summary,
            "changes": None if self.difference is None else self.difference.as_data(),
        }


@dataclass(frozen=True, slots=True)
class Blamed:
    """A field, and the revision that gave it the value it has.

    :ivar field: with its value as :attr:`FieldChange.after`, masked.
    :ivar earlier: the oldest revision that is kept has the value already: it may come from one before.
    """

    field: FieldChange
    revision: Revision
    earlier: bool


def described(revision: Revision) -> dict[str, Any]:
    """Return what is known of a revision as JSON's types, without its configuration."""
    return {name: getattr(revision, name) for name in ("revision", "digest", "at", "actor", "comment")}


def changes(revisions: Iterable[Revision], plugins: Finder) -> Iterator[PastChange]:
    """Yield what each of some revisions changed; they come newest first, with none left out in between.

    The last of them is compared only if it is the first of all.
    """
    newer: Revision | None = None
    newer_tree: Any = None
    for revision in revisions:
        tree = tree_of(revision)
        if newer is not None:
            yield PastChange(newer, difference(tree, newer_tree, plugins) if None not in (tree, newer_tree) else None)
        newer, newer_tree = revision, tree
    if newer is not None:
        first = newer.revision == 1 and newer_tree is not None
        yield PastChange(newer, difference(None, newer_tree, plugins) if first else None)


def blame(kind: Kind, name: str, revisions: Iterable[Revision], plugins: Finder) -> list[Blamed]:
    """Return each field of a route (or upstream, consumer, plugin entry) as it is now, with the revision that it is from.

    :param revisions: newest first; read no further than the oldest that a field is from.
    :raises CommandFailed: the newest has none of that name.
    """
    found: dict[str, Blamed] = {}
    newest: list[str] = []
    pending: dict[str, FieldChange] = {}
    holder: Revision | None = None
    for revision in revisions:
        value = items(tree_of(revision))[kind].get(name)
        fields = flat(value, plugins, kind) if value is not None else {}
        if holder is None:
            if value is None:
                raise CommandFailed(f"the live configuration has no {kind} {name!r}")
            pending, newest = dict(fields), list(fields)
        for path in [path for path, field in pending.items() if path not in fields or fields[path].raw != field.raw]:
            assert holder is not None, "the newest has what it has"  # noqa: S101
            found[path] = Blamed(pending.pop(path), holder, earlier=False)
        holder = revision
        if not pending:
            break
    if holder is not None:
        found |= {path: Blamed(field, holder, earlier=holder.revision > 1) for path, field in pending.items()}
    return [found[path] for path in newest]


def tree_of(revision: Revision) -> Any:
    """Return the document of a revision, secrets and all; None if it cannot be read: somebody may have ``SET`` anything."""
    try:
        return read(revision.configuration, f"revision {revision.revision}").tree
    except ConfigurationRefused:
        return None
