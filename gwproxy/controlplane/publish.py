"""The one way by which people change the configuration: checked, compared, written under a lock, recorded.

The command line and the admin API both come here; nothing here prints, and nothing knows who asks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

import orjson

from gwproxy.controlplane.difference import Difference, difference
from gwproxy.controlplane.history import PastChange, changes
from gwproxy.controlplane.installed import Installed, Worker, live
from gwproxy.controlplane.masking import MASK
from gwproxy.controlplane.parse import Environment, Parsed, parse
from gwproxy.controlplane.places import path_text
from gwproxy.controlplane.restoring import restore
from gwproxy.controlplane.text import Source, read
from gwproxy.errors import CommandFailed, ConfigurationRefused, GatewayError, StoreUnavailable
from gwproxy.model import Problem
from gwproxy.registry import Registry
from gwproxy.store.audit import AuditLog, Outcome
from gwproxy.store.configuration import ConfigurationStore, Latest, Published, Revision, RevisionConflict, digest_of

log = logging.getLogger("gwproxy.publish")

#: How many changes of others a conflict names; of more, the newest.
NAMED_CHANGES = 20

Action = Literal["apply", "rollback"]


class Overtaken(RevisionConflict):
    """Somebody else changed the configuration first; nothing was written.

    :ivar base: the revision that the change was made from.
    :ivar since: what was changed since, newest first: 20 revisions at most, fewer if they are no longer kept.
    """

    def __init__(self, conflict: RevisionConflict, base: int, since: tuple[PastChange, ...]) -> None:
        super().__init__(conflict.revision, conflict.actor, conflict.at)
        self.base = base
        self.since = since
        told = [f"this change was made from revision {base}, and {self.args[0]}", *map(str, since)]
        self.args = ("; ".join(told),)


@dataclass(frozen=True)
class Prepared:
    """A configuration that may be published: valid, and compared with what is live.

    :ivar name: what messages call it.
    :ivar data: the JSON to publish, with its secrets; its ``digest`` is what workers will report.
    :ivar parsed: as this process understands it.
    :ivar warnings: what the operator should know of.
    :ivar difference: to what is live.
    :ivar base: what is live; its revision is what the change is based on.
    :ivar unchanged: whether the live one is this one: there is nothing to do.
    :ivar workers: the heartbeats it was judged by.
    """

    action: Action
    name: str
    data: bytes = field(repr=False)
    digest: str
    parsed: Parsed = field(repr=False)
    warnings: tuple[Problem, ...]
    difference: Difference
    base: Latest = field(repr=False)
    unchanged: bool
    workers: tuple[Worker, ...] = field(repr=False)

    @property
    def revision(self) -> int:
        """The revision that it is based on."""
        return self.base.revision or 0


class Publisher:
    """Changes the configuration of one gateway on behalf of one actor.

    Every method raises :class:`~gwproxy.errors.StoreUnavailable` if the store does not answer.

    :param registry: the plugins that configurations are judged by here.
    :param environment: what references may be resolved to here; workers have their own.
    :param actor: who acts, for the history and the audit stream.
    """

    def __init__(self, store: ConfigurationStore, audit: AuditLog, registry: Registry, environment: Environment, actor: str) -> None:
        self.store = store
        self.registry = registry
        self.actor = actor
        self._audit = audit
        self._environment = environment

    def live(self) -> Latest:
        """Return what is live, with its revision: a bare ``SET`` that nobody has noted yet is noted."""
        for _ in range(10):
            latest = self.store.latest()
            if latest.revision is not None or latest.data is None:
                return latest
            self.store.note_external(latest.data, digest_of(latest.data))
        raise StoreUnavailable("the configuration is being overwritten all the time by somebody else")

    def check(self, data: bytes, name: str, *, allow_empty: bool = False, trial: bool = False) -> Prepared:
        """Judge a configuration by shape, plugins and what the workers have, and compare it with the live one.

        Masked secrets in it are those of the live one.

        :param data: YAML or JSON.
        :param name: what messages call it.
        :param allow_empty: whether one without routes is meant.
        :param trial: True: nothing is to be changed, so that a refusal is not recorded.
        :raises ConfigurationRefused: with every problem.
        :raises CommandFailed: it has no routes.
        """
        return self._recorded("apply", trial, lambda: self._check("apply", data, name, allow_empty))

    def check_rollback(self, number: int, *, trial: bool = False) -> Prepared:
        """Judge an earlier revision as :meth:`check` does; it is published byte for byte.

        :raises CommandFailed: the history has no such revision.
        :raises ConfigurationRefused: it is not valid any more, or the workers cannot run it.
        """
        return self._recorded(
            "rollback", trial, lambda: self._check("rollback", self.revision(number).configuration, f"revision {number}", True)
        )

    def expect(self, prepared: Prepared, base: int) -> None:
        """Refuse what was made from another revision than the live one; :meth:`commit` does so too, at the moment of writing.

        :raises Overtaken: naming who changed what since.
        """
        if base != prepared.revision:
            newest = next(iter(self.store.history(1)), None)
            conflict = RevisionConflict(prepared.revision, newest.actor if newest else "", newest.at if newest else "")
            raise Overtaken(conflict, base, self._since(base))

    def commit(self, prepared: Prepared, comment: str = "", base: int | None = None) -> Published:
        """Make it live as a new revision, and tell the workers.

        :param base: the revision it was made from; None: the one it was compared with.
        :raises Overtaken: the live revision is another one; nothing was changed.
        :raises StoreUnavailable: whether it was changed is not known.
        """
        expected = prepared.revision if base is None else base
        return self._write(prepared.action, prepared.data, comment, expected, prepared.difference.summary())

    def put_back(self, failed: Published, before: Latest, reason: str) -> Published:
        """Publish what was live before ``failed``, as a new revision, unless somebody has changed the configuration since.

        :param reason: why, for the history.
        :raises Overtaken: somebody has; nothing was changed.
        :raises CommandFailed: there was no configuration before.
        """
        if before.data is None:
            raise CommandFailed(f"there was no configuration before revision {failed.revision} to go back to")
        comment = f"back to revision {before.revision}, because of revision {failed.revision}: {reason}"
        return self._write("rollback", before.data, comment, failed.revision, comment)

    def record_failure(self, action: str, published: Published, reason: str) -> None:
        """Record that workers did not take a revision."""
        self._record(action, "refused", reason, published.revision)

    def revision(self, number: int) -> Revision:
        """Return a revision.

        :raises CommandFailed: the history has none of that number.
        """
        found = self.store.revision(number)
        if found is None:
            raise CommandFailed(f"the history has no revision {number}; 'gwproxy history' lists those that are kept")
        return found

    def history(self) -> Iterator[PastChange]:
        """Yield every revision with what it changed, newest first, reading some at a time."""
        self.live()
        return changes(self.store.walk(), self.registry)

    def _check(self, action: Action, data: bytes, name: str, allow_empty: bool) -> Prepared:
        base = self.live()
        source = read(data, name)
        before = _tree(base.data)
        exact = action == "rollback"  # what was live before is taken as it is, masks and all
        tree = source.tree if exact else self._restored(source, before)
        workers = live(self.store.workers())
        installed = Installed(workers)
        parsed = parse(
            data,
            file=name,
            plugins=self.registry,
            environment=self._environment,
            elsewhere=installed.anywhere(),
            tree=None if tree is source.tree else tree,
        )
        if problems := list(installed.problems(parsed, source)):
            raise ConfigurationRefused(problems)
        if not parsed.document.routes and not allow_empty:
            raise CommandFailed(f"{name} has no routes: every request would be answered 404; --allow-empty says that this is meant")
        made = data if exact else orjson.dumps(tree)
        unchanged = base.data is not None and (base.data == made or (before is not None and orjson.dumps(before) == made))
        warnings = (*parsed.warnings, *installed.warnings(parsed, source, self.registry))
        differs = difference(before, tree, self.registry)
        return Prepared(action, name, made, digest_of(made), parsed, warnings, differs, base, unchanged, tuple(workers))

    def _restored(self, source: Source, before: Any) -> Any:
        tree, missing = restore(source.tree, before, self.registry)
        if missing:
            expected = "the secret itself, or ${NAME}: the live configuration has none at this place to keep"
            raise ConfigurationRefused(
                [Problem(path_text(path), MASK, expected, *source.place(path), source.file) for path in sorted(missing, key=source.place)]
            )
        return tree

    def _write(self, action: Action, data: bytes, comment: str, expected: int, detail: str) -> Published:
        try:
            published = self.store.publish(data, actor=self.actor, comment=comment, expected_revision=expected)
        except RevisionConflict as conflict:
            overtaken = Overtaken(conflict, expected, self._since(expected))
            self._record(action, "refused", str(overtaken), expected)
            raise overtaken from None
        except StoreUnavailable as error:  # it may have been lost on its way there, or the reply on its way back
            raise StoreUnavailable(
                f"{error}; whether the change was made is not known: 'gwproxy history' tells, once the store is back"
            ) from error
        self._record(action, "done", detail, published.revision)
        return published

    def _since(self, base: int) -> tuple[PastChange, ...]:
        """Return what was changed after a revision, newest first."""
        newer = takewhile(lambda change: change.revision.revision > base, self.history())
        return tuple(change for change, _ in zip(newer, range(NAMED_CHANGES), strict=False))

    def _recorded(self, action: Action, trial: bool, check: Any) -> Prepared:
        try:
            return check()  # type: ignore[no-any-return]
        except (ConfigurationRefused, CommandFailed) as refused:
            if not trial:
                self._record(action, "refused", str(refused), None)
            raise

    def _record(self, action: str, outcome: Outcome, detail: str, revision: int | None) -> None:
        self._audit.note(self.actor, action, outcome, detail, revision)


def _tree(data: bytes | None) -> Any:
    """Return the document's tree; None if there is none, or none that can be read."""
    try:
        return read(data, "the live configuration").tree if data else None
    except GatewayError:
        return None
