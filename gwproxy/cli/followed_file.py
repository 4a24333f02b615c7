"""A configuration file that ``gwproxy run`` publishes, and follows as it is edited."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gwproxy.cli import run_file
from gwproxy.cli.config_file import problem_line
from gwproxy.cli.output import counted
from gwproxy.controlplane.parse import Environment, parse, to_json
from gwproxy.errors import ConfigurationRefused
from gwproxy.model import Problem
from gwproxy.registry import Registry
from gwproxy.settings import Settings
from gwproxy.store.audit import AuditLog
from gwproxy.store.configuration import ConfigurationStore, digest_of

RETRY = 2.0  # seconds until what failed for a reason outside the file is tried again
REMEMBERED = "published.json"  # in the state folder: the digest of what was published last, by store and file

ACTOR = "run"  # in the history and the audit stream

Mark = tuple[int, int, int]


class FollowedFile:
    """Publishes a file when it differs from what was published from it last.

    So a restart does not undo what somebody else has published since, and an edit does: who edits a file means it.

    :param place: what tells this store from others, the same at every start.
    :param say: called with a line for the person at the terminal.
    """

    def __init__(
        self, path: Path, settings: Settings, store: ConfigurationStore, audit: AuditLog, place: str, say: Callable[[str], None]
    ) -> None:
        self.path = path
        self._settings = settings
        self._store = store
        self._audit = audit
        self._key = f"{place} {settings.prefix} {path.resolve()}"
        self._say = say
        self._done: Mark | None = None
        self._seen: Mark | None = None
        self._told = ""
        self._not_before = 0.0

    def start(self) -> None:
        """Publish the file as it is.

        :raises ConfigurationRefused: it is not valid.
        :raises OSError: it cannot be read.
        :raises StoreUnavailable: the store is away.
        """
        mark = _mark(self.path)
        self._publish()
        self._done = self._seen = mark

    def look(self) -> None:
        """Publish the file if it was edited and is still: an editor may write it in several steps.

        Nothing is raised. An invalid edit is reported and left alone; what failed for another reason is tried again.
        """
        mark = _mark(self.path)
        if mark is None or mark == self._done or time.monotonic() < self._not_before:
            return
        if mark != self._seen:
            self._seen = mark
            return
        try:
            self._publish()
        except ConfigurationRefused as refused:
            self._tell(refused.problems)
            self._say(f"{self.path} was not published, for {counted(len(refused.problems), 'problem')}: the last good one serves on")
        except Exception as error:  # whatever it is, it must not end the gateway
            self._not_before = time.monotonic() + RETRY
            if self._told != (text := f"{self.path} is not published yet: {error}"):
                self._told = text
                self._say(text)
            return
        self._told = ""
        self._done = mark

    def _publish(self) -> None:
        try:
            data, warnings = self._read()
        except ConfigurationRefused as refused:
            self._audit.note(ACTOR, "apply", "refused", str(refused))
            raise
        self._tell(warnings, "warning")
        digest, live = digest_of(data), self._store.read()
        if live.data is not None and digest in (self._remembered().get(self._key), digest_of(live.data)):
            self._remember(digest)
            if live.data == data:
                self._say(f"{self.path} is live already, as revision {live.revision}")
            else:
                self._say(f"{self.path} has not changed since it was published; revision {live.revision}, which came after it, stays")
            return
        published = self._store.publish(data, actor=ACTOR, comment=f"from {self.path}")
        self._audit.note(ACTOR, "apply", "done", f"from {self.path}", published.revision)
        self._remember(digest)
        self._say(f"published {self.path} as revision {published.revision}")

    def _read(self) -> tuple[bytes, tuple[Problem, ...]]:
        """Return the file as the JSON that is published, and what to warn of.

        Its environment is that of the workers, who refuse what misses a variable: so is it here.
        """
        data = self.path.read_bytes()
        environment = Environment(os.environ, self._settings.may_reference)
        parsed = parse(data, file=str(self.path), plugins=Registry.discover(), environment=environment)
        return to_json(data, str(self.path)), tuple(parsed.warnings)

    def _tell(self, problems: Iterable[Problem], severity: str = "") -> None:
        for problem in problems:
            self._say(problem_line(problem, severity))

    def _remembered(self) -> dict[str, str]:
        try:
            found = json.loads((self._settings.state_dir / REMEMBERED).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _remember(self, digest: str) -> None:
        try:
            run_file.write_private(self._settings.state_dir / REMEMBERED, {**self._remembered(), self._key: digest})
        except OSError as error:  # a full disk: the file is published all the same, perhaps once more at the next start
            self._say(f"cannot remember what was published in {self._settings.state_dir}: {error.strerror}")


def _mark(path: Path) -> Mark | None:
    """Return what changes with the file; None if there is none, which is what it looks like while an editor replaces it."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
