"""The wheels of a machine: in its state folder, fetched from the store once, and never trusted for having been there before."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gwproxy.controlplane.last_good import file_name
from gwproxy.errors import WheelRefused
from gwproxy.store.deployments import Revocation, StoredWheel
from gwproxy.wheels import minisign, wheel
from gwproxy.wheels.deployment import Pinned
from gwproxy.wheels.loading import Compiled, compile_sources

log = logging.getLogger("gwproxy.shelf")

#: Seconds that a wheel stays which nothing names any more: another worker may just have begun to load it.
UNUSED = 86_400.0


@dataclass(frozen=True, slots=True)
class Verified:
    """A wheel that may be loaded.

    :ivar key: the id of the key that vouches for it.
    """

    wheel: wheel.Wheel
    compiled: Compiled
    key: str


class Revoked:
    """What is revoked, as far as this machine knows: wheels by their SHA-256, keys by their ids. It only grows.

    So nobody who writes to the store can make a revoked wheel good again, once the state folder knows.

    :ivar reasons: why, by name.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self._file = folder / "wheels" / f"{file_name(prefix)}.revoked.json"
        self.reasons: Mapping[str, str] = {}

    def learn(self, found: Mapping[str, Revocation]) -> bool:
        """Add what the store says, and what other workers have heard; return whether any of it is new. Waits for the disk.

        A disk that cannot be written is logged: this worker knows all the same.
        """
        heard = {name: revocation.reason for name, revocation in found.items()}
        kept = self._kept()
        known = set(self.reasons)
        self.reasons = {**kept, **heard, **self.reasons}
        if not self.reasons.keys() <= kept.keys():
            try:
                _write(self._file, orjson.dumps(self.reasons, option=orjson.OPT_SORT_KEYS))
            except OSError as error:
                log.error("revocations_not_saved reason=%s", error)
        return self.reasons.keys() != known

    def _kept(self) -> dict[str, str]:
        try:
            found = orjson.loads(self._file.read_bytes())
            return {str(name): str(reason) for name, reason in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError, AttributeError) as error:
            log.error("revocations_unreadable file=%s reason=%s", self._file, error)
            return {}


class Shelf:
    """Gives the wheels that a deployment names, verified each time: by digest, signature, key and revocation.

    :param keys: who may vouch for a wheel.
    :param fetch: reads a wheel from the store; what it raises is passed on.
    :param in_thread: calls a function where it may wait for a disk, or compute.
    """

    def __init__(
        self,
        folder: Path,
        keys: Sequence[minisign.PublicKey],
        revoked: Revoked,
        fetch: Callable[[str], StoredWheel | None],
        in_thread: Callable[..., Any],
    ) -> None:
        self._folder = folder / "wheels"
        self._keys = tuple(keys)
        self._revoked = revoked
        self._fetch = fetch
        self._in_thread = in_thread

    def take(self, pinned: Pinned) -> Verified:
        """Return a wheel, from the folder or else from the store.

        :raises WheelRefused: it is not there, or not what was deployed, or nobody vouches for it, or it is revoked.
        :raises StoreUnavailable: it is not in the folder, and the store does not answer.
        """
        held: tuple[bytes, str] | None = self._in_thread(self._held, pinned.sha256)
        if held is not None:
            with contextlib.suppress(WheelRefused):  # the store may have it with the signature of a key that is still good
                return self._verified(pinned, *held)
        stored = self._fetch(pinned.sha256)
        if stored is None and held is not None:
            return self._verified(pinned, *held)  # which says what is wrong with it
        if stored is None:
            raise WheelRefused(f"{pinned}: its wheel is not in the store any more; push it again")
        verified = self._verified(pinned, stored.data, stored.signature)
        try:
            self._in_thread(self._keep, stored)
        except OSError as error:
            log.error("wheel_not_saved wheel=%s reason=%s", pinned, error)
        return verified

    def tidy(self, named: Collection[str]) -> None:
        """Remove wheels that nothing names any more. Waits for the disk.

        :param named: the SHA-256 of those that stay.
        """
        oldest = time.time() - UNUSED
        with contextlib.suppress(OSError):
            for path in self._folder.glob("*.whl"):
                if path.stem not in named and path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)
                    self._signature(path.stem).unlink(missing_ok=True)

    def _verified(self, pinned: Pinned, data: bytes, signature: str) -> Verified:
        verified: Verified = self._in_thread(self._verify, pinned, data, signature)
        return verified

    def _verify(self, pinned: Pinned, data: bytes, signature: str) -> Verified:
        if hashlib.sha256(data).hexdigest() != pinned.sha256:
            raise WheelRefused(f"{pinned}: its bytes are not those that were deployed")
        try:
            signed = minisign.verify(data, signature, self._keys, self._revoked.reasons)
        except WheelRefused as refused:
            raise WheelRefused(f"{pinned}: {refused.reason}") from None
        read = wheel.read(data)
        if read.pinned != pinned:
            raise WheelRefused(f"{pinned}: the wheel is {read.package} with {', '.join(read.pinned.plugins)}")
        return Verified(read, compile_sources(read), signed.key_id)

    def _held(self, sha256: str) -> tuple[bytes, str] | None:
        try:
            return (self._folder / f"{sha256}.whl").read_bytes(), self._signature(sha256).read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def _keep(self, stored: StoredWheel) -> None:
        _write(self._signature(stored.sha256), stored.signature.encode())
        _write(self._folder / f"{stored.sha256}.whl", stored.data)

    def _signature(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.whl.minisig"


def _write(path: Path, data: bytes) -> None:
    """Write a file as a whole, readable by its owner.

    :raises OSError: the disk is full or read-only.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
