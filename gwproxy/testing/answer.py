"""What became of a request: what the client got, what the upstream saw, what the plugins decided."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gwproxy.http.headers import Headers
from gwproxy.testing.trace import Trace
from gwproxy.testing.upstream import Seen


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request, and what happened on the way.

    :ivar pieces: the body as it was passed on, piece by piece.
    :ivar completed: False: the connection of the client was cut before the end of the body.
    :ivar seen: the requests that the test's upstream got because of it: none, one, or more with retries.
    :ivar trace: what ran of plugins, in order.
    :ivar route: the id of the route it took; None if none matched.
    :ivar state: what plugins have left in ``ctx.state``.
    """

    status: int
    headers: Headers
    pieces: tuple[bytes, ...]
    completed: bool
    seen: tuple[Seen, ...]
    trace: Trace
    route: str | None
    state: dict[str, Any]

    @property
    def body(self) -> bytes:
        """The body, as far as it came."""
        return b"".join(self.pieces)

    @property
    def text(self) -> str:
        """The body, read as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the body, read as JSON."""
        return json.loads(self.body)

    @property
    def upstream(self) -> Seen:
        """What the upstream saw.

        :raises AssertionError: nothing, or more than one request: look at :attr:`seen`.
        """
        if len(self.seen) != 1:
            raise AssertionError(f"the upstream saw {len(self.seen)} requests; answered {self.status}; trace: {self.decisions}")
        return self.seen[0]

    @property
    def decisions(self) -> list[str]:
        """The trace in words: ``"tenant post_auth: aborted 403"``."""
        return [str(traced) for traced in self.trace]
