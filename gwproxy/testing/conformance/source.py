"""Where plugins are found that are to be tried: a package's folder, a wheel, or what is installed."""

from __future__ import annotations

import sys
import tomllib
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser, Error
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from gwproxy.errors import CommandFailed
from gwproxy.registry import GROUP


def points_of(target: str) -> list[EntryPoint]:
    """Return the entry points of the plugins of a target, and let them be imported from there.

    :param target: a folder with ``setup.cfg`` or ``pyproject.toml``, a wheel, or the name of an installed plugin.
    :raises CommandFailed: there is no such thing, or it has no plugins.
    """
    path = Path(target)
    if path.is_dir():
        points = list(_of_folder(path))
        where = [path / "src", path]
    elif path.is_file():
        points, where = list(_of_wheel(path)), [path]
    elif points := list(entry_points(group=GROUP, name=target)):
        return points
    else:
        raise CommandFailed(f"{target} is no folder, no wheel and no installed plugin; 'gwproxy plugins list' shows what is installed")
    if not points:
        raise CommandFailed(f"{target} has no entry point in the group 'gwproxy'; docs/plugins.md, 'The package', shows one")
    sys.path[:0] = [str(one.resolve()) for one in where if one.exists()]
    return points


def _of_folder(folder: Path) -> Iterator[EntryPoint]:
    setup, project = folder / "setup.cfg", folder / "pyproject.toml"
    try:
        if setup.is_file():
            parser = ConfigParser()
            parser.read(setup, "utf-8")
            yield from _read(parser.get("options.entry_points", GROUP, fallback=""))
        if project.is_file():
            tables = tomllib.loads(project.read_text("utf-8"))
            for name, value in tables.get("project", {}).get("entry-points", {}).get(GROUP, {}).items():
                yield EntryPoint(name, value, GROUP)
    except (Error, ValueError, AttributeError) as error:
        raise CommandFailed(f"{folder}: its packaging cannot be read: {error}") from None


def _of_wheel(wheel: Path) -> Iterator[EntryPoint]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
            parser = ConfigParser(delimiters=("=",))
            parser.optionxform = str  # type: ignore[assignment,method-assign]  # names are as written
            for name in names:
                parser.read_string(archive.read(name).decode())
    except (zipfile.BadZipFile, ValueError, Error) as error:
        raise CommandFailed(f"{wheel} is no wheel: {error}") from None
    if parser.has_section(GROUP):
        yield from (EntryPoint(name, value, GROUP) for name, value in parser.items(GROUP))


def _read(text: str) -> Iterator[EntryPoint]:
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield EntryPoint(name.strip(), value.strip(), GROUP)
