"""Where a configuration comes from: Redis, or a file. A source says that something changed; the content decides."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from gwproxy.errors import StoreUnavailable
from gwproxy.store.candidates import Candidate, CandidateStore, CandidateUnreadable, Look
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.counters import sha1
from gwproxy.store.deployments import DeploymentStore, LiveDeployment, Revocation

log = logging.getLogger("gwproxy.sources")

POLL = 0.5  # seconds between looks; hints make it quicker, this makes it certain
SETTLE = 0.1  # seconds after a hint before the next is read: a storm of them is read in heaps, and nobody applies faster
RESUBSCRIBE = (0.05, 0.5)  # seconds; how soon a worker may connect again is up to the Redial of its connections


@dataclass(frozen=True, slots=True)
class Found:
    """What a source holds now.

    :ivar data: None if it is missing or empty.
    :ivar revision: of the store; 0 for a file.
    :ivar name: shown in problems, e.g. ``gw:routes``.
    """

    data: bytes | None
    revision: int
    name: str


class Source(Protocol):
    """Something to follow.

    :ivar candidate: what was there beside the live configuration at the last look; None if nothing was that is good for it.
    :ivar deployment: what was pushed, as of the last look; None: it has none, or has not looked yet.
    :ivar revoked: what is not good any more of what was pushed, by the SHA-256 of a wheel or the id of a key.
    """

    candidate: Candidate | None
    deployment: LiveDeployment | None
    revoked: Mapping[str, Revocation]

    def poll(self) -> Found | None:
        """Return the content if it may differ from what was returned last, else None.

        :raises StoreUnavailable: it cannot be read now.
        """

    def outdated(self) -> bool:
        """Whether there is something new to poll; looks twice a second at most, however often it is asked."""

    def wait(self) -> None:
        """Wait until it is time to poll again: a hint came, or half a second passed."""

    def close(self) -> None:
        """Stop waiting, now and for ever."""


class RedisSource:
    """The live configuration in Redis, what was pushed, and the candidate beside them: polled, and followed by their channel.

    :param prefix: of the keys, for names shown.
    :param deployments: None: what was pushed is not looked at.
    """

    def __init__(
        self, store: ConfigurationStore, candidates: CandidateStore, prefix: str, deployments: DeploymentStore | None = None
    ) -> None:
        self._store = store
        self._candidates = candidates
        self._name = f"{prefix}routes"
        self._seen: str | None = None
        self._version = ""  # of the candidate that was read last
        self._unreadable = ""  # the id of a candidate that was told of already
        self._looked = 0.0  # when, monotonic
        self._deployments = deployments
        self._marks: tuple[str | None, str] = (None, "")  # of the deployment and of the revocations that were read last
        self.candidate: Candidate | None = None
        self.deployment: LiveDeployment | None = None
        self.revoked: Mapping[str, Revocation] = {}
        self._hint = threading.Event()
        self._closed = False

    def poll(self) -> Found | None:
        """Compare fingerprints, and read everything if they differ; an unchanged document is not transferred."""
        look = self._look()
        self._look_at_plugins(look)
        self._look_beside(look)
        if look.fingerprint == self._seen:
            return None
        live = self._store.read()
        # Of what was read, not of what was looked at: if that is written again after the read, it is to be read again.
        self._seen = sha1(live.data) if live.data else ""
        return Found(live.data or None, live.revision, self._name)

    def outdated(self) -> bool:
        """Look, if that was half a second ago."""
        if time.monotonic() - self._looked < POLL:
            return False
        try:
            look = self._look()
        except StoreUnavailable:
            return False
        known = self.candidate.id if self.candidate is not None else ""
        pushed = self._deployments is not None and self._marks != (look.deployment, look.revoked)
        if look.fingerprint == self._seen and look.candidate == known and not look.void and not pushed:
            return False
        self._hint.set()
        return True

    def _look(self) -> Look:
        self._looked = time.monotonic()
        return self._candidates.look()

    def _look_at_plugins(self, look: Look) -> None:
        """Read what is deployed, and what is revoked, if either is another than before."""
        if self._deployments is None:
            return
        deployed, revoked = self._marks
        if look.revoked != revoked:  # first: what is deployed next may be good only by that
            self.revoked, revoked = self._deployments.revoked(), look.revoked
        if look.deployment != deployed:
            self.deployment = self._deployments.live()
            deployed = sha1(self.deployment.data) if self.deployment.data else ""  # as above
        self._marks = deployed, revoked

    def _look_beside(self, look: Look) -> None:
        """Read the candidate if it is another one, or is told to be otherwise than before."""
        if not look.candidate or look.void:
            self.candidate = None
            return
        before = self.candidate
        if before is not None and (before.id, self._version) == (look.candidate, look.version):
            return
        known = before is not None and before.id == look.candidate
        try:
            found = self._candidates.read(data=not known)
        except CandidateUnreadable as error:  # nobody's business but its own: what is live goes on being followed
            if self._unreadable != look.candidate:
                log.warning("candidate_unreadable candidate=%s reason=%s", look.candidate, error)
            self._unreadable, found = look.candidate, None
        if found is None or found.id != look.candidate:
            self.candidate = None  # another one meanwhile: the next look finds it
            return
        self.candidate = replace(found, data=before.data) if before is not None and known else found
        self._version = look.version

    def wait(self) -> None:
        """Wait for a hint, half a second at most, jittered so that a fleet does not poll in step."""
        self._hint.wait(POLL * random.uniform(0.7, 1.0))  # noqa: S311 - no secret
        self._hint.clear()

    def close(self) -> None:
        """Stop."""
        self._closed = True
        self._hint.set()

    def listen(self) -> None:
        """Follow the channel until closed: every message, and every reconnect, is a hint. Runs in the background."""
        lost = False
        while not self._closed:
            subscription = self._store.subscribe()
            try:
                while not self._closed:
                    if subscription.wait(1.0):
                        self._hint.set()  # or something may have been published while nobody listened
                        time.sleep(SETTLE)
                    if lost:
                        log.info("subscription_back")
                    lost = False
            except StoreUnavailable as error:
                if not lost:
                    log.warning("subscription_lost reason=%s", error)
                lost = True
                time.sleep(random.uniform(*RESUBSCRIBE))  # noqa: S311 - jitter, no secret
            finally:
                subscription.close()


class FileSource:
    """A configuration file, read again whenever its size, time or inode changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.candidate: Candidate | None = None  # a file has nothing beside it
        self.deployment: LiveDeployment | None = None  # nothing can be pushed
        self.revoked: Mapping[str, Revocation] = {}
        self._seen: tuple[int, int, int] | None = None
        self._closed = threading.Event()

    def poll(self) -> Found | None:
        """Look at the file.

        :raises StoreUnavailable: it cannot be read.
        """
        try:
            status = os.stat(self._path)
            mark = (status.st_mtime_ns, status.st_size, status.st_ino)
            if mark == self._seen:
                return None
            data = self._path.read_bytes()
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from error
        self._seen = mark
        return Found(data or None, 0, str(self._path))

    def outdated(self) -> bool:
        """A file has nothing beside it that could be."""
        return False

    def wait(self) -> None:
        """Wait half a second."""
        self._closed.wait(POLL)

    def close(self) -> None:
        """Stop."""
        self._closed.set()
