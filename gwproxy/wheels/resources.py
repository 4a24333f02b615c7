"""The files of a wheel in memory, as :mod:`importlib.resources` shows them."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterator, Mapping
from importlib.resources.abc import Traversable, TraversableResources
from typing import Any


class Resources(TraversableResources):
    """The files in one folder of a wheel.

    :param folder: without a slash at its end; empty: the top of the wheel.
    """

    def __init__(self, files: Mapping[str, bytes], folder: str) -> None:
        self._files = files
        self._folder = folder

    def files(self) -> Traversable:
        """Return the folder."""
        return PackedFile(self._files, self._folder)


class PackedFile(Traversable):
    """A file or folder of a wheel; it need not exist."""

    def __init__(self, files: Mapping[str, bytes], path: str) -> None:
        self._files = files
        self._path = path

    @property
    def name(self) -> str:
        """The last part of its path."""
        return posixpath.basename(self._path)

    def iterdir(self) -> Iterator[PackedFile]:
        """Yield what is in the folder.

        :raises NotADirectoryError: it is none.
        """
        if not self.is_dir():
            raise NotADirectoryError(self._path)
        start = f"{self._path}/" if self._path else ""
        below = {path[len(start) :].partition("/")[0] for path in self._files if path.startswith(start)}
        for name in sorted(below):
            yield PackedFile(self._files, start + name)

    def is_dir(self) -> bool:
        """Whether it is a folder, which has something in it."""
        return not self._path or any(path.startswith(f"{self._path}/") for path in self._files)

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._path in self._files

    def joinpath(self, *descendants: Any) -> PackedFile:
        """Return something below it. What would lead out of the wheel is not there."""
        return PackedFile(self._files, posixpath.normpath(posixpath.join(self._path, *map(str, descendants))).removeprefix("."))

    def __truediv__(self, child: Any) -> PackedFile:
        return self.joinpath(child)

    def read_bytes(self) -> bytes:
        """Return what is in the file.

        :raises FileNotFoundError: there is none.
        """
        if self._path in self._files:
            return self._files[self._path]
        raise IsADirectoryError(self._path) if self.is_dir() else FileNotFoundError(self._path)

    def read_text(self, *args: Any, **kwargs: Any) -> str:
        """Return what is in the file, as text; the arguments are those of :func:`open`."""
        with self.open("r", *args, **kwargs) as stream:
            return str(stream.read())

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """Open the file for reading.

        :raises ValueError: the mode is to write.
        """
        if mode not in ("r", "rb", "rt"):
            raise ValueError(f"{self._path} is in a wheel, and can be read only: {mode!r}")
        stream = io.BytesIO(self.read_bytes())
        return stream if mode == "rb" else io.TextIOWrapper(stream, *args, **kwargs)

    def __str__(self) -> str:
        return self._path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path!r})"
