"""The token that opens the admin listener before any other was made: in the environment, else in the state folder."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings

NAME = "admin.token"
_LEAST = 16  # characters; below, it could be guessed


def path_of(settings: Settings) -> Path:
    """Return where the token lies if the environment names none."""
    return settings.state_dir / NAME


def ensure(settings: Settings) -> str:
    """Make the token if there is none; the file is its owner's only. Of two that start at once, one makes it.

    :return: where it lies, for people: its path, or the name of the environment variable that holds it.
    :raises CommandFailed: it cannot be made or read, or could be guessed; says what to do.
    """
    if settings.admin_token is not None:
        read(settings)
        return "GWPROXY_ADMIN_TOKEN"
    path = path_of(settings)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        path.chmod(0o600)  # also if somebody has opened it to others since
    except OSError as error:
        raise CommandFailed(f"the admin token cannot be kept in {path}: {error.strerror}; name one in GWPROXY_ADMIN_TOKEN") from None
    read(settings)
    return str(path)


def read(settings: Settings) -> str:
    """Return the token.

    :raises CommandFailed: there is none, or it could be guessed.
    """
    if settings.admin_token is not None:
        if len(settings.admin_token) < _LEAST:
            raise CommandFailed(f"GWPROXY_ADMIN_TOKEN has less than {_LEAST} characters: it could be guessed")
        return settings.admin_token
    path = path_of(settings)
    try:
        token = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise CommandFailed(f"the admin token cannot be read from {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(token) < _LEAST:
        raise CommandFailed(f"{path} holds no token; remove it to have one made")
    return token


def _make(path: Path) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{NAME}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(name, path)  # unlike a rename it leaves alone what another process has just made
    finally:
        os.unlink(name)
