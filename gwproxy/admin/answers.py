"""What is answered: JSON, and refusals that say why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

import orjson

from gwproxy.errors import GatewayError
from gwproxy.model import Problem

Fields = Sequence[tuple[str, str]]

#: On every answer: nothing here is for caches, frames, or a browser's guesses about types.
ALWAYS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint gives back.

    :ivar value: what JSON holds, or bytes as they are; None with 204.
    :ivar fields: header fields beside the usual ones.
    :ivar media: what it is.
    """

    value: Any
    status: int = 200
    fields: Fields = ()
    media: str = "application/json"


@dataclass(frozen=True, slots=True)
class EventStream:
    """Server-sent events instead of JSON.

    :ivar pieces: made when the answer is about to leave; each is sent at once. Closed with the response.
    """

    pieces: Callable[[], Iterable[bytes]]


class Refused(GatewayError):
    """A request that is not done; the message is for who asked.

    :ivar problems: what is wrong with the document or the body, each with its path.
    :ivar more: further members of the body.
    """

    def __init__(
        self, status: int, text: str, *, problems: Iterable[Problem] = (), fields: Fields = (), more: dict[str, Any] | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.problems = tuple(problems)
        self.fields = tuple(fields)
        self.more = more or {}

    @property
    def answer(self) -> Answer:
        """How it is told."""
        body: dict[str, Any] = {"error": str(self), **self.more}
        if self.problems:
            body["problems"] = [asdict(problem) for problem in self.problems]
        return Answer(body, self.status, self.fields)


def status_line(status: int) -> str:
    """Return e.g. ``404 Not Found``."""
    return f"{status} {HTTPStatus(status).phrase}"


def encode(value: Any) -> bytes:
    """Return JSON; mappings that are no ``dict`` as objects."""
    return orjson.dumps(value, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)
