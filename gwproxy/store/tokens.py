"""Tokens for the admin listener: made once, shown once, kept as hashes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

import orjson

from gwproxy.errors import CommandFailed
from gwproxy.store.asking import Asking

#: What a token allows, each also what the ones before it do: to read; to change the configuration; tokens and the audit stream.
Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

#: The name of the token that was there before any other: no token in the store has it.
FIRST = "admin"

#: By which a leaked one is found, by people and by scanners.
PREFIX = "gwp_"
MOST = 1000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def covers(role: Role, needed: Role) -> bool:
    """Whether ``role`` allows what ``needed`` does."""
    return ROLES.index(role) >= ROLES.index(needed)


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token.

    :ivar name: letters, digits, ``.``, ``_`` and ``-``; the actor of what is done with it.
    :ivar created: ISO 8601, UTC.
    :ivar created_by: the actor who made it.
    :ivar expires: when it ends, ISO 8601, UTC; None: it does not.
    """

    name: str
    role: Role
    created: str
    created_by: str
    expires: str | None

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= _iso(time.time())


class TokenStore(Asking):
    """The tokens of one gateway in Redis: the hash ``gw:tokens``, by name.

    Every method raises :class:`~gwproxy.errors.StoreUnavailable` if the store does not answer. A token is 256 random bits, so
    that a plain SHA-256 of it is as safe as a slow one.
    """

    def create(self, name: str, role: Role, *, by: str, lifetime: float | None = None) -> tuple[Token, str]:
        """Make a token; return what is kept of it, and the token itself, which cannot be told again.

        :param lifetime: seconds until it expires; None: it does not.
        :raises CommandFailed: the name is taken or none, or there are too many.
        """
        if not _NAME.fullmatch(name):
            raise CommandFailed(f"{name!r} is no name for a token: letters, digits, '.', '_' and '-', 64 at most, a letter or digit first")
        if name == FIRST:
            raise CommandFailed(f"{FIRST!r} is the name of the token in the state folder; choose another")
        if self._ask(lambda: self._client.hlen(self._key("tokens"))) >= MOST:
            raise CommandFailed(f"there are {MOST} tokens; revoke some")
        secret, now = PREFIX + secrets.token_urlsafe(32), time.time()
        token = Token(name, role, _iso(now), by, _iso(now + lifetime) if lifetime is not None else None)
        held = orjson.dumps({**asdict(token), "sha256": _digest(secret)})
        if not self._ask(lambda: self._client.hsetnx(self._key("tokens"), name, held)):
            raise CommandFailed(f"there is a token {name!r}; revoke it first, or choose another name")
        return token, secret

    def all(self) -> list[Token]:
        """Return every token by name, expired ones too."""
        return sorted((token for token, _ in self._read()), key=lambda token: token.name)

    def revoke(self, name: str) -> bool:
        """Remove a token, at once and everywhere; False if there is none of that name."""
        return bool(self._ask(lambda: self._client.hdel(self._key("tokens"), name)))

    def find(self, secret: str) -> Token | None:
        """Return the token that ``secret`` is; None if it is none, or has expired. Takes as long for every wrong one."""
        digest, found = _digest(secret), None
        for token, held in self._read():
            if hmac.compare_digest(held, digest) and not token.expired:
                found = token
        return found

    def _read(self) -> list[tuple[Token, str]]:
        entries = self._ask(lambda: self._client.hgetall(self._key("tokens")))
        return [known for name, held in entries.items() if (known := _token(name, held)) is not None]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _token(name: bytes, held: bytes) -> tuple[Token, str] | None:
    """Return an entry and its hash; None for what is none of ours: it opens nothing."""
    try:
        fields = orjson.loads(held)
        digest, expires = fields["sha256"], fields["expires"]
        token = Token(name.decode(), fields["role"], fields["created"], fields["created_by"], expires)
    except (ValueError, KeyError, TypeError):
        return None
    texts = [token.created, token.created_by, digest, *([] if expires is None else [expires])]
    known = token.role in ROLES and all(isinstance(text, str) for text in texts) and re.fullmatch(r"[0-9a-f]{64}", digest)
    return (token, digest) if known else None
