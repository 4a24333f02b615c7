"""Where a worker's log goes: where gunicorn's error log goes, in its format. An event name, then its fields."""

from __future__ import annotations

import logging

#: The loggers of the gateway; a plugin logs below a name of its own, and below ``gwproxy.plugins`` if it wants it here.
ROOT = "gwproxy"


def configure(level: str) -> None:
    """Send the gateway's log to the handlers of gunicorn's error log.

    :param level: ``debug``, ``info``, ``warning`` or ``error``; anything else is ``info``.
    """
    own = logging.getLogger(ROOT)
    own.handlers = list(logging.getLogger("gunicorn.error").handlers)
    own.propagate = not own.handlers
    own.setLevel(getattr(logging, level.upper(), logging.INFO))
