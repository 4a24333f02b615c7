"""Where a worker's log goes: where gunicorn's error log goes, in its format. An event name, then its fields."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

#: The loggers of the gateway; a plugin logs below a name of its own, and below ``gwproxy.plugins`` if it wants it here.
ROOT = "gwproxy"


MASK = "***"


class Masking(logging.Formatter):
    """Formats as another formatter does, tracebacks included, and leaves out every secret (X08).

    :param secrets: asked for each line: the configuration changes while the worker runs.
    """

    def __init__(self, inner: logging.Formatter, secrets: Callable[[], Iterable[str]]) -> None:
        super().__init__()
        self._inner = inner
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = self._inner.format(record)
        for secret in self._secrets():
            if secret in text:
                text = text.replace(secret, MASK)
        return text


def configure(level: str, secrets: Callable[[], Iterable[str]] = tuple) -> None:
    """Send the gateway's log to the handlers of gunicorn's error log, and keep both free of secrets.

    :param level: ``debug``, ``info``, ``warning`` or ``error``; anything else is ``info``.
    :param secrets: those there are now, the longest first.
    """
    own = logging.getLogger(ROOT)
    own.handlers = list(logging.getLogger("gunicorn.error").handlers)
    for handler in own.handlers:
        handler.setFormatter(Masking(handler.formatter or logging.Formatter(), secrets))
    own.propagate = not own.handlers
    own.setLevel(getattr(logging, level.upper(), logging.INFO))
