"""Who is at the terminal, for the history and the audit stream."""

from __future__ import annotations

import getpass
import os
import socket

from gwproxy.settings import Settings


def actor(settings: Settings) -> str:
    """Return ``GWPROXY_ACTOR``, else ``user@host``; the user's number where it has no name."""
    if settings.actor:
        return settings.actor
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # containers, often
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
