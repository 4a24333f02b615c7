"""A new plugin package, complete and ready to test: what ``gwproxy plugins new`` writes."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from gwproxy.cli.scaffold.templates import FILES
from gwproxy.errors import CommandFailed

_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
_LONGEST = 50
# Names that the module imports: a class of the same name would hide them.
_TAKEN = {"Annotated", "ConfigurationRefused", "Context", "Field", "InProcessGateway", "Plugin"}


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a plugin, of a module and of a package at once.

    :raises ValueError: with what a name is.
    """
    if len(name) > _LONGEST or _NAME.fullmatch(name) is None:
        raise ValueError(f"a name has lower case letters, digits and single '_' between them, a letter first, at most {_LONGEST} in all")


def write_package(name: str, folder: Path) -> list[Path]:
    """Write the package of a new plugin.

    :param name: of the plugin, see :func:`check_name`.
    :param folder: made if need be.
    :return: the files, in an order in which one may read them.
    :raises CommandFailed: the folder is there and not empty; nothing was written.
    :raises OSError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        empty = not any(folder.iterdir())
    except (FileExistsError, NotADirectoryError):
        empty = False
    if not empty:
        raise CommandFailed(f"{folder} is there and not empty; nothing was written. Name another folder with --directory")
    words = names_of(name)
    written = []
    for path, text in FILES.items():
        file = folder / Template(path).substitute(words)
        file.parent.mkdir(exist_ok=True)
        file.write_text(Template(text).substitute(words), "utf-8")
        written.append(file)
    return written


def names_of(name: str) -> dict[str, str]:
    """Return what the plugin is called in each place: ``name``, ``module``, ``package``, ``cls``, ``header``."""
    words = name.split("_")
    cls = "".join(word.capitalize() for word in words)
    return {
        "name": name,
        "module": f"gwproxy_{name}",
        "package": f"gwproxy-{name.replace('_', '-')}",
        "cls": f"{cls}Plugin" if cls in _TAKEN else cls,
        "header": "-".join(["X", *(word.capitalize() for word in words)]),
    }
