"""What is in a wheel, and whether it is one that may be pushed: signed or not, nothing of it runs here.

A wheel that may be pushed is plain Python with at least one plugin, whole to the byte, small, and writes nothing beside its
packages. All that is refused names the file, field or requirement.
"""

from __future__ import annotations

import hashlib
import io
import platform
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.parser import Parser
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution
from os import PathLike
from types import MappingProxyType
from typing import NoReturn

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import parse_tag, sys_tags
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from gwproxy.errors import WheelRefused
from gwproxy.registry import GROUP
from gwproxy.wheels.deployment import Pinned
from gwproxy.wheels.record import check_record

#: Bytes of a wheel, bytes of all that is in it, files in it; at most.
MOST_PACKED = 10 << 20
MOST_UNPACKED = 40 << 20
MOST_FILES = 2000

_COMPILED = re.compile(r"\.(so(\.\d+)*|pyd|dylib|dll|pyc|pyo)$", re.IGNORECASE)
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
#: The bits of a zip entry's flags that say it is encrypted.
_ENCRYPTED = 0x1 | 0x40


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that may be pushed, unpacked.

    :ivar distribution: its normalized name.
    :ivar version: normalized.
    :ivar sha256: of its bytes, 64 hexadecimal digits.
    :ivar requires: its requirements, as it states them.
    :ivar plugins: the value of the entry point of each plugin, by name.
    :ivar sources: its modules, by path.
    :ivar resources: its other files, by path.
    :ivar metadata: the files of its ``.dist-info``, by name.
    """

    distribution: str
    version: str
    sha256: str
    requires: tuple[str, ...]
    plugins: Mapping[str, str]
    sources: Mapping[str, bytes] = field(repr=False)
    resources: Mapping[str, bytes] = field(repr=False)
    metadata: Mapping[str, bytes] = field(repr=False)

    @property
    def pinned(self) -> Pinned:
        """What a deployment holds of it."""
        return Pinned(self.distribution, self.version, self.sha256, tuple(sorted(self.plugins)))

    @property
    def package(self) -> str:
        """How the distribution of an installed plugin is named, too: ``gwproxy-tenant 1.1``."""
        return f"{self.distribution} {self.version}"


class Packed(Distribution):
    """The metadata of a wheel, as :mod:`importlib.metadata` shows that of what is installed."""

    def __init__(self, metadata: Mapping[str, bytes]) -> None:
        self._files = metadata

    def read_text(self, filename: str) -> str | None:
        """Return a file of the ``.dist-info``; None if there is none."""
        data = self._files.get(filename)
        return data.decode() if data is not None else None

    def locate_file(self, path: str | PathLike[str]) -> NoReturn:
        """Refuse: the files of a wheel that was pushed are on no disk."""
        raise FileNotFoundError(f"{path} is in a wheel that was pushed; read it by importlib.resources")


def read(data: bytes, *, environment: bool = True) -> Wheel:
    """Unpack a wheel in memory.

    :param environment: refuse as well what this process could not run: for its Python, or for what is installed.
    :raises WheelRefused: it may not be pushed.
    """
    try:
        files = _unpack(data)
        folder = _dist_info(files)
        check_record(files, f"{folder}/RECORD")
        metadata = {path[len(folder) + 1 :]: content for path, content in files.items() if path.startswith(f"{folder}/")}
        others = {path: content for path, content in files.items() if not path.startswith(f"{folder}/")}
        wheel = _described(data, folder, Packed(metadata), metadata, others)
        tags = _check_pure(wheel)
    except UnicodeDecodeError as error:
        raise WheelRefused(f"its metadata is no UTF-8: {error}") from None
    if environment:
        problems = [*_python_problems(wheel, tags), *_missing(wheel.requires, "", set())]
        if problems:
            raise WheelRefused(f"{wheel.package} cannot run here: {'; '.join(problems)}")
    return wheel


def _unpack(data: bytes) -> dict[str, bytes]:
    if len(data) > MOST_PACKED:
        raise WheelRefused(f"it has {len(data)} bytes; {MOST_PACKED} are the most")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_FILES:
                raise WheelRefused(f"it has {len(entries)} files; {MOST_FILES} are the most")
            if (size := sum(entry.file_size for entry in entries)) > MOST_UNPACKED:
                raise WheelRefused(f"it has {size} bytes unpacked; {MOST_UNPACKED} are the most")
            files: dict[str, bytes] = {}
            for entry in entries:
                _check_entry(entry)
                if entry.filename in files:
                    raise WheelRefused(f"{entry.filename} is in it twice")
                if not entry.is_dir():
                    files[entry.filename] = archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError, OSError) as error:
        raise WheelRefused(f"it is no sound zip file: {error}") from None
    return files


def _check_entry(entry: zipfile.ZipInfo) -> None:
    # As it is written there: zipfile cuts a name at a NUL, and makes slashes of a system's own separators.
    name = entry.orig_filename
    parts = name.removesuffix("/").split("/")
    if name != entry.filename or "\\" in name or ":" in parts[0] or not name.isprintable() or not {"", ".", ".."}.isdisjoint(parts):
        raise WheelRefused(f"{name!r} is no path inside a package")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise WheelRefused(f"{name} is a link or a device, not a file")
    if entry.flag_bits & _ENCRYPTED:
        raise WheelRefused(f"{name} is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise WheelRefused(f"{name} is packed in a way that wheels are not")


def _dist_info(files: Mapping[str, bytes]) -> str:
    folders = {path.partition("/")[0] for path in files if path.partition("/")[0].endswith(".dist-info")}
    if len(folders) != 1:
        raise WheelRefused(f"it has {len(folders)} folders .dist-info; a wheel has one")
    (folder,) = folders
    for name in ("METADATA", "WHEEL", "RECORD"):
        if f"{folder}/{name}" not in files:
            raise WheelRefused(f"it has no {folder}/{name}")
    return folder


def _described(data: bytes, folder: str, packed: Packed, metadata: dict[str, bytes], files: dict[str, bytes]) -> Wheel:
    name, version = _field(packed, "Name"), _field(packed, "Version")
    try:
        version = str(Version(version))
        pair = folder.removesuffix(".dist-info").split("-", 1)
        named = (canonicalize_name(pair[0]), str(Version(pair[-1])))
    except InvalidVersion as error:
        raise WheelRefused(f"METADATA: {error}") from None
    if named != (canonicalize_name(name), version):
        raise WheelRefused(f"{folder} is of {' '.join(named)}, METADATA of {name} {version}")
    sources = {path: content for path, content in files.items() if path.endswith(".py")}
    wheel = Wheel(
        distribution=canonicalize_name(name),
        version=version,
        sha256=hashlib.sha256(data).hexdigest(),
        requires=tuple(packed.requires or ()),
        plugins=MappingProxyType(_plugins(packed, sources)),
        sources=MappingProxyType(sources),
        resources=MappingProxyType({path: content for path, content in files.items() if path not in sources}),
        metadata=MappingProxyType(metadata),
    )
    _ = wheel.pinned  # whose rules hold for it, too
    return wheel


def _field(packed: Packed, name: str) -> str:
    return packed.metadata[name] if name in packed.metadata else ""  # noqa: SIM401 - has no get() by its type


def _plugins(packed: Packed, sources: Mapping[str, bytes]) -> dict[str, str]:
    try:
        points = [point for point in packed.entry_points if point.group == GROUP]
    except ValueError as error:
        raise WheelRefused(f"entry_points.txt cannot be read: {error}") from None
    if not points:
        raise WheelRefused(f"it has no entry point in the group {GROUP!r}: there is no plugin in it")
    plugins: dict[str, str] = {}
    for point in points:
        if point.name in plugins:
            raise WheelRefused(f"the plugin {point.name!r} is in it twice")
        _check_point(point, sources)
        plugins[point.name] = point.value
    return plugins


def _check_point(point: EntryPoint, sources: Mapping[str, bytes]) -> None:
    module, _, attribute = point.value.partition(":")
    module = module.strip()
    if not _DOTTED.fullmatch(module) or not _DOTTED.fullmatch(attribute.strip()):
        raise WheelRefused(f"the plugin {point.name!r} is {point.value!r}; it must be MODULE:CLASS")
    path = module.replace(".", "/")
    if f"{path}.py" not in sources and f"{path}/__init__.py" not in sources:
        raise WheelRefused(f"the plugin {point.name!r} is {point.value!r}, and {module} is not in the wheel")


def _check_pure(wheel: Wheel) -> list[str]:
    """Return the tags of a wheel that is plain Python, for any system, and all of which is in its packages."""
    for path in [*wheel.sources, *wheel.resources]:
        top = path.partition("/")[0]
        if _COMPILED.search(path):
            raise WheelRefused(f"{path} is compiled code; a wheel that is pushed is plain Python")
        if path.endswith(".pth"):
            raise WheelRefused(f"{path} would change the path of the whole process")
        if top.endswith(".data"):
            raise WheelRefused(f"{path} would be installed outside of the package: scripts, headers and data are not for plugins")
        if top.removesuffix(".py") == "gwproxy":
            raise WheelRefused(f"{path}: the name gwproxy is the gateway's own")
    told = Parser().parsestr(wheel.metadata["WHEEL"].decode())
    if not (told["Wheel-Version"] or "").startswith("1."):
        raise WheelRefused(f"its format is {told['Wheel-Version']!r}; 1.x is known")
    if (told["Root-Is-Purelib"] or "").strip().lower() != "true":
        raise WheelRefused("it says Root-Is-Purelib: false, and so holds compiled code; a wheel that is pushed is plain Python")
    tags = [str(tag).strip() for tag in told.get_all("Tag", [])]
    for tag in tags:
        if tag.split("-")[1:] != ["none", "any"]:
            raise WheelRefused(f"it is for {tag}; a wheel that is pushed is plain Python, for any system: py3-none-any")
    if not tags:
        raise WheelRefused("WHEEL names no Tag, such as py3-none-any")
    return tags


def _python_problems(wheel: Wheel, tags: list[str]) -> list[str]:
    here = platform.python_version()
    wanted = _field(Packed(wheel.metadata), "Requires-Python")
    try:
        if wanted and not SpecifierSet(wanted).contains(here, prereleases=True):
            return [f"it requires Python {wanted}, this is {here}"]
    except InvalidSpecifier:
        return [f"it requires Python {wanted!r}, which is no version"]
    possible = set(sys_tags())
    if all(possible.isdisjoint(parse_tag(tag)) for tag in tags):
        return [f"it is for {', '.join(tags)}, and this is Python {here}"]
    return []


def _missing(requires: tuple[str, ...] | list[str], extra: str, seen: set[tuple[str, str]]) -> list[str]:
    """Return every requirement that what is installed does not meet, with both."""
    problems: list[str] = []
    for text in requires:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            problems.append(f"its requirement {text!r} cannot be read")
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        try:
            installed = distribution(wanted.name)
        except PackageNotFoundError:
            problems.append(f"it requires {text.partition(';')[0].strip()}, and {wanted.name} is not installed")
            continue
        if not wanted.specifier.contains(installed.version, prereleases=True):
            problems.append(f"it requires {text.partition(';')[0].strip()}, and {wanted.name} {installed.version} is installed")
        for more in sorted(wanted.extras):
            if (canonicalize_name(wanted.name), more) not in seen:
                seen.add((canonicalize_name(wanted.name), more))
                optional = [line for line in installed.requires or () if "extra" in line.partition(";")[2]]
                problems += _missing(optional, more, seen)
    return problems
