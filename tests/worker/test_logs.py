"""Where a worker's log goes, and what it leaves out."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from gwproxy.worker import logs


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What gunicorn's error log holds, in its format."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    error, own = logging.getLogger("gunicorn.error"), logging.getLogger(logs.ROOT)
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in (error, own)]
    error.handlers = [handler]
    yield stream
    for logger, handlers, propagate, level in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_X08_no_line_and_no_traceback_holds_a_secret(written: io.StringIO) -> None:
    secrets = ["a-long-secret", "secret"]
    logs.configure("info", lambda: secrets)
    log = logging.getLogger("gwproxy.plugins.mine")
    log.info("with %s and %s", "a-long-secret", "secret")
    try:
        raise ValueError("secret")
    except ValueError:
        log.exception("failed")
    logging.getLogger("gunicorn.error").warning("of gunicorn: secret")
    secrets[:] = ["new"]
    log.info("secret no more, a new one is")
    lines = written.getvalue().splitlines()
    assert lines[0] == "[INFO] with *** and ***"
    assert "ValueError: ***" in lines
    assert lines[-2:] == ["[WARNING] of gunicorn: ***", "[INFO] secret no more, a *** one is"]


def test_below_its_level_nothing_is_written(written: io.StringIO) -> None:
    logs.configure("error")
    logging.getLogger("gwproxy.app").warning("not this")
    logging.getLogger("gwproxy.app").error("this")
    assert written.getvalue() == "[ERROR] this\n"
