"""Which wheels are live: a deployment, and how it is written.

A deployment is a value: every change makes another one. Its digest says whether two are the same, however they were written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from gwproxy.errors import WheelRefused

#: The most wheels one deployment has, and the most plugins one wheel has.
MOST_WHEELS = 200
MOST_PLUGINS = 100

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = {"distribution", "version", "sha256", "plugins"}


@dataclass(frozen=True, slots=True, order=True)
class Pinned:
    """One wheel of a deployment, to the byte.

    :ivar distribution: its normalized name, e.g. ``gwproxy-tenant``.
    :ivar version: normalized, e.g. ``1.1``.
    :ivar sha256: of the wheel's bytes, 64 hexadecimal digits.
    :ivar plugins: the names of the plugins in it, sorted; at least one.

    :raises WheelRefused: one of these is not what it should be.
    """

    distribution: str
    version: str
    sha256: str
    plugins: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what no wheel could be, wherever it came from."""
        if not self.distribution or self.distribution != canonicalize_name(self.distribution):
            raise WheelRefused(f"{self.distribution!r} is no normalized name of a distribution")
        try:
            if str(Version(self.version)) != self.version:
                raise InvalidVersion
        except InvalidVersion:
            raise WheelRefused(f"{self.distribution}: {self.version!r} is no normalized version") from None
        if not _SHA256.fullmatch(self.sha256):
            raise WheelRefused(f"{self}: {self.sha256!r} is no SHA-256")
        if not 0 < len(self.plugins) <= MOST_PLUGINS or not all(self.plugins):
            raise WheelRefused(f"{self}: it has {len(self.plugins)} plugins; from 1 to {MOST_PLUGINS}, with names, are possible")
        if list(self.plugins) != sorted(set(self.plugins)):
            raise WheelRefused(f"{self}: its plugins are not sorted, or one is named twice")

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The wheels that are live together.

    :param wheels: in any order; kept sorted by distribution.

    :raises WheelRefused: two have one distribution or one plugin name, or there are too many.
    """

    wheels: tuple[Pinned, ...] = ()
    _dumped: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort, refuse what does not go together, and write it once."""
        wheels = tuple(sorted(self.wheels))
        object.__setattr__(self, "wheels", wheels)
        if len(wheels) > MOST_WHEELS:
            raise WheelRefused(f"{len(wheels)} wheels; a deployment has {MOST_WHEELS} at most")
        for first, second in pairwise(wheels):
            if first.distribution == second.distribution:
                raise WheelRefused(f"{first.distribution} is there twice, as {first.version} and {second.version}")
        _refuse_shared_names(wheels)
        rows = [{"distribution": w.distribution, "version": w.version, "sha256": w.sha256, "plugins": w.plugins} for w in wheels]
        object.__setattr__(self, "_dumped", orjson.dumps({"wheels": rows}, option=orjson.OPT_SORT_KEYS))

    @classmethod
    def load(cls, data: bytes | str) -> Deployment:
        """Read what :meth:`dump` has written; nothing at all is the empty deployment.

        :raises WheelRefused: it is something else. Keys that are not known are refused as well: a later version of the
            gateway may have meant something by them.
        """
        if not data:
            return cls()
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise WheelRefused(f"the deployment is no JSON: {error}") from None
        if not isinstance(document, dict) or document.keys() != {"wheels"} or not isinstance(document["wheels"], list):
            raise WheelRefused('the deployment is no object with "wheels", and nothing else')
        return cls(tuple(_pinned(row) for row in document["wheels"]))

    def dump(self) -> bytes:
        """Write it as JSON, always in the same bytes."""
        return self._dumped

    @property
    def digest(self) -> str:
        """The SHA-256 of :meth:`dump` in hexadecimal digits; empty if no wheel is deployed."""
        return hashlib.sha256(self._dumped).hexdigest() if self.wheels else ""

    def with_(self, wheel: Pinned) -> Deployment:
        """Return this with ``wheel``, in place of any other version of its distribution.

        :raises WheelRefused: another distribution has a plugin of the same name.
        """
        return Deployment((*self.without(wheel.distribution).wheels, wheel))

    def without(self, distribution: str) -> Deployment:
        """Return this without a distribution, which need not be there; its name need not be normalized."""
        gone = canonicalize_name(distribution)
        return Deployment(tuple(wheel for wheel in self.wheels if wheel.distribution != gone))

    def find(self, distribution: str) -> Pinned | None:
        """Return the wheel of a distribution; None if it is not deployed."""
        wanted = canonicalize_name(distribution)
        return next((wheel for wheel in self.wheels if wheel.distribution == wanted), None)

    @property
    def plugins(self) -> dict[str, Pinned]:
        """Every pushed plugin's name, and the wheel it comes from."""
        return {name: wheel for wheel in self.wheels for name in wheel.plugins}

    def __iter__(self) -> Iterator[Pinned]:
        return iter(self.wheels)

    def __bool__(self) -> bool:
        return bool(self.wheels)


def _refuse_shared_names(wheels: Iterable[Pinned]) -> None:
    owners: dict[str, Pinned] = {}
    for wheel in wheels:
        for name in wheel.plugins:
            if other := owners.get(name):
                raise WheelRefused(f"the plugin {name!r} is in two wheels, {other} and {wheel}")
            owners[name] = wheel


def _pinned(row: Any) -> Pinned:
    if not isinstance(row, dict) or row.keys() != _KEYS:
        raise WheelRefused(f"a wheel of the deployment does not have the keys {', '.join(sorted(_KEYS))}, and no others")
    plugins = row["plugins"]
    texts = (row["distribution"], row["version"], row["sha256"])
    if not all(isinstance(text, str) for text in texts) or not isinstance(plugins, list) or not all(isinstance(p, str) for p in plugins):
        raise WheelRefused("a wheel of the deployment has something else than texts, and a list of texts as its plugins")
    return Pinned(*texts, tuple(plugins))
