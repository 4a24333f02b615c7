"""Loading, with a look at what it leaves in the process."""

from __future__ import annotations

import inspect
import linecache
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gwproxy.wheels.loading import Loaded, load
from gwproxy.wheels.wheel import read
from tests.wheels.made import make_wheel


def traces() -> dict[str, Any]:
    """Everything in the process by which a loaded wheel could be found."""
    return {
        "modules": {name for name in sys.modules if name.startswith("_wheel_")},
        "meta_path": list(sys.meta_path),
        "path_hooks": list(sys.path_hooks),
        "importers": {path for path in sys.path_importer_cache if ".whl" in path},
        "lines": {path for path in linecache.cache if ".whl" in path},
        "inspect": {name for name in inspect._filesbymodname if name.startswith("_wheel_")},  # type: ignore[attr-defined]
        "files": {path for path in inspect.modulesbyfile if ".whl" in path},
        "loggers": {name for name in logging.Logger.manager.loggerDict if name.startswith("_wheel_")},
    }


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = traces()
    yield
    after = traces()
    for where in ("meta_path", "path_hooks"):
        assert after.pop(where) == before.pop(where)
    # What others have loaded before may go meanwhile, with its last reference, and be found by inspect, which looks at all modules.
    others = {_loaded_as(name) for name in before["modules"]}
    left = {where: {name for name in found - before[where] if _loaded_as(name) not in others} for where, found in after.items()}
    assert {where: names for where, names in left.items() if names} == {}


def _loaded_as(name: str) -> str:
    """Return what names and files of one loading of one wheel have in common."""
    found = re.search(r"[0-9a-f]{12}_\d+", name)
    return found[0] if found is not None else name


class Loading:
    """Loads wheels, and unloads them at the end of the test."""

    def __init__(self) -> None:
        self._loaded: list[Loaded] = []

    def __call__(self, files: dict[str, str | bytes] | None = None, **arguments: Any) -> Loaded:
        loaded = load(read(make_wheel(files, **arguments)))
        self._loaded.append(loaded)
        return loaded

    def close(self) -> None:
        while self._loaded:
            self._loaded.pop().unload()


@pytest.fixture
def loading(nothing_is_left: None) -> Iterator[Loading]:
    loading = Loading()
    yield loading
    loading.close()
