"""A pytest plugin that writes down what was collected: ``pytest --collect-only -p tests.collecting``, for test_reliability_table.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

TO = "COLLECTED_TO"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write :func:`markers`, as JSON, to the file that the environment names."""
    Path(os.environ[TO]).write_text(json.dumps(markers(session)))


def markers(session: pytest.Session) -> dict[str, list[str]]:
    """Return the names of the markers of each collected test, by its node id."""
    return {item.nodeid: [mark.name for mark in item.iter_markers()] for item in session.items}
