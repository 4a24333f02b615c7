"""What must not stand in a log, and how a log entry is written: shared by the logging plugins."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import unquote_plus

import orjson

MASK = "***"

#: How a body can be read.
Form = Literal["json", "form", "text"]

# Secrets by the end of their names, written as plain() does: new_password, X-Api-Key, clientSecret, __Host-session.
_SECRET_ENDINGS = (
    *("apikey", "accesskey", "privatekey", "authorization", "cookie", "cookie2", "credential", "credentials", "jwt"),
    *("passphrase", "passwd", "password", "pwd", "secret", "session", "sessionid", "signature", "token"),
)
# In a query these are credentials too often (OAuth codes, API keys); elsewhere they are ordinary words.
_SECRET_PARAMETERS = frozenset({"auth", "code", "key", "sig"})
_DEEPEST = 32
_LONGEST_KNOWN = 64
_INSIDE = re.compile(r"[\[\].]+")
_MILLISECONDS = [f".{number:03d}Z" for number in range(1000)]
_UNSEEN = re.compile(rb"\x7f|\xc2[\x80-\x9f]")


def plain(name: str) -> str:
    """Return ``name`` as names are compared: in lower case, without ``-`` and ``_``."""
    return name.lower().replace("-", "").replace("_", "")


class Redaction:
    """Masks values by the names they go by: of headers, of query and form parameters, of JSON fields at any depth.

    Whatever the operator names, and always what goes by the name of a secret: ``Authorization``, cookies, passwords,
    tokens, keys, signatures, sessions.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(plain(name) for name in names)
        # PERF: clients repeat their names; 0.2 µs instead of 3. Bounded, because clients make them up.
        self._known_name = lru_cache(maxsize=256)(self._is_hidden)
        self._known_parameter = lru_cache(maxsize=256)(self._is_hidden_parameter)

    def hides(self, name: str) -> bool:
        """Whether a value of that name is masked."""
        return self._known_name(name) if len(name) <= _LONGEST_KNOWN else self._is_hidden(name)

    def _hides_parameter(self, name: str) -> bool:
        return self._known_parameter(name) if len(name) <= _LONGEST_KNOWN else self._is_hidden_parameter(name)

    def _is_hidden(self, name: str) -> bool:
        known = plain(name)
        return known in self._names or known.endswith(_SECRET_ENDINGS)

    def _is_hidden_parameter(self, name: str) -> bool:
        decoded = unquote_plus(name)
        return plain(decoded) in _SECRET_PARAMETERS or any(self._is_hidden(part) for part in _INSIDE.split(decoded))

    def query(self, query: str) -> str:
        """Return a query string, or a form, with masked values; of ``user[password]`` each part counts as a name."""
        pairs = query.split("&")
        for index, pair in enumerate(pairs):
            name, equals, _ = pair.partition("=")
            if equals and self._hides_parameter(name):
                pairs[index] = f"{name}={MASK}"
        return "&".join(pairs)

    def json(self, value: Any, depth: int = 0) -> Any:
        """Return a parsed JSON value with masked fields; what lies deeper than 32 levels is masked too."""
        if isinstance(value, dict):
            if depth == _DEEPEST:
                return MASK
            return {name: MASK if self.hides(name) else self.json(item, depth + 1) for name, item in value.items()}
        if isinstance(value, list):
            return MASK if depth == _DEEPEST else [self.json(item, depth + 1) for item in value]
        return value


def form_of(content_type: str | None) -> Form | None:
    """Return how a body of that type can be read; None for what is binary, a stream of events, or not declared."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return "json"
    if kind == "application/x-www-form-urlencoded":
        return "form"
    return "text" if kind.startswith("text/") and kind != "text/event-stream" else None


def timestamp() -> str:
    """Return the time as logs write it: ISO 8601, UTC, milliseconds."""
    number = int(time.time() * 1000)
    second: str = _second(number // 1000)
    return second + _MILLISECONDS[number % 1000]


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def encode(entry: Mapping[str, Any]) -> bytes:
    """Return ``entry`` as one line of JSON, without its end.

    Control characters, C1 and DEL included, are escaped: a terminal that shows a log must not obey it. What JSON
    cannot hold (half a surrogate pair, a huge number, any object) is written as text.
    """
    try:
        line = orjson.dumps(entry, default=str)
    except TypeError:
        line = orjson.dumps(_writable(entry))
    if line.isascii() and b"\x7f" not in line:  # PERF: 0.1 µs, against 3 for the search
        return line
    return _UNSEEN.sub(_escape, line)


def _escape(match: re.Match[bytes]) -> bytes:
    return b"\\u00%02x" % match[0][-1]


def _writable(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    if depth < _DEEPEST and isinstance(value, dict):
        return {_text(key): _writable(item, depth + 1) for key, item in value.items()}
    if depth < _DEEPEST and isinstance(value, (list, tuple)):
        return [_writable(item, depth + 1) for item in value]
    return _text(value)


def _text(value: object) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()
