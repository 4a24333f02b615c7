"""Bytes as they stand in the corpus: text of one line a line, in which everything that is not plain is spelled out.

A line end is CRLF; a line that ends with a backslash has none. ``\\r``, ``\\n``, ``\\t``, ``\\0``, ``\\xNN`` and ``\\\\`` are
one byte each, ``{a*9000}`` is ``a`` nine thousand times. ``{date}`` is the current date and ``{id}`` a request id that the
gateway has made: they stand for themselves on both sides of a comparison. Other names in braces are what the player says,
e.g. ``{upstream}``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_SIMPLE = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
_TOKEN = re.compile(r"\\x([0-9a-fA-F]{2})|\\([rnt0\\])|(\\\n)|(\n)|\{([a-z][a-z ]*)\}|\{([^{}]*?)\*(\d+)\}|(\\)")
_DATE = re.compile(rb"(?<=\nDate: )([A-Z][a-z]{2}, [0-9A-Za-z: ]{20} GMT)(?=\r\n)")
_ID = re.compile(rb"(?<=\nX-Request-ID: )[0-9a-f]{32}(?=\r\n)")
_RUN = re.compile(r"(\\(?:x..|.)|.)\1{63,}", re.DOTALL)
_KEPT = {"date": b"{date}", "id": b"{id}"}
_LENGTHS = {b"{date}": 29, b"{id}": 32}


def decode(text: str, names: Mapping[str, bytes]) -> bytes:
    """Return the bytes that ``text`` spells.

    :param names: what ``{name}`` stands for. An unknown name is an error of the corpus: :class:`KeyError`.
    """

    def token(match: re.Match[str]) -> str:
        code, simple, joined, _end, name, repeated, times, stray = match.groups()
        if code:
            return chr(int(code, 16))
        if simple:
            return _SIMPLE[simple]
        if name:
            return (_KEPT.get(name) or names[name]).decode("latin-1")
        if times:
            return decode(repeated, names).decode("latin-1") * int(times)
        assert not stray, f"a backslash that begins no escape: {text!r}"
        return "" if joined else "\r\n"

    return _TOKEN.sub(token, text).encode("latin-1")


def size(expected: bytes) -> int:
    """Return how many bytes will match ``expected``."""
    return len(expected) + sum((length - len(mark)) * expected.count(mark) for mark, length in _LENGTHS.items())


def normal(data: bytes) -> bytes:
    """Return ``data`` with ``{date}`` and ``{id}`` in place of what differs from run to run."""

    def date(match: re.Match[bytes]) -> bytes:
        current = abs(parsedate_to_datetime(match[1].decode()).timestamp() - time.time()) < 3600
        return b"{date}" if current else match[1]

    return _ID.sub(b"{id}", _DATE.sub(date, data))


def encode(data: bytes) -> str:
    """Return ``data`` as it would stand in the corpus: what a failed comparison shows."""
    text = "".join(map(_shown, re.split(r"(\r\n|[^\x20-\x7e])", data.decode("latin-1"))))
    text = _RUN.sub(lambda run: f"{{{run[1]}*{len(run[0]) // len(run[1])}}}", text)
    return text if text.endswith("\n") or not text else text + "\\\n"


def _shown(part: str) -> str:
    if part == "\r\n":
        return "\n"
    if not part or (part.isascii() and part.isprintable()):
        return part.replace("\\", "\\\\")
    return {"\r": "\\r", "\n": "\\n", "\t": "\\t", "\0": "\\0"}.get(part) or f"\\x{ord(part):02x}"
