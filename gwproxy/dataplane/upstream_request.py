"""The request as it goes to an upstream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from mypy_extensions import mypyc_attr
from requests.structures import CaseInsensitiveDict

from gwproxy.context import Patience
from gwproxy.dataplane.connect import Origin
from gwproxy.dataplane.wire import encode_fields
from gwproxy.model import Timeouts

Watching = Callable[[int, Callable[[], None], float | None], AbstractContextManager[None]]


def _unwatched(_fileno: int, _meanwhile: Callable[[], None], _until: float | None) -> AbstractContextManager[None]:
    return nullcontext()


class SizedBody:
    """A body that is sent as it comes, once.

    :ivar chunks: its bytes; what iterating raises ends the exchange and passes through unchanged.
    :ivar length: in bytes, declared and held to; None: sent chunked.
    :ivar watching: within ``watching(fileno, meanwhile, until)``, whoever waits for the next chunk calls ``meanwhile`` when ``fileno``
        is readable; what that raises ends the wait, and so does the time ``until``. By default chunks are waited for as if there
        was nothing else.
    """

    __slots__ = ("chunks", "length", "watching")

    def __init__(self, chunks: Iterable[bytes], length: int | None = None, watching: Watching = _unwatched) -> None:
        self.chunks = chunks
        self.length = length
        self.watching = watching

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)


@mypyc_attr(acyclic=True, free_list_len=1)
class UpstreamRequest:
    """A request of which every byte is decided by the gateway; nothing is prepared, merged or quoted.

    It stands where requests has a ``PreparedRequest``, and has what adapters read of one. It is none: what that sets up
    (cookies, hooks) is what a gateway must not have, and reading it costs more.

    :param method: upper case.
    :param origin: where to connect.
    :param target: the raw request target, sent untouched; begins with ``/``, or is ``*``.
    :param fields: the whole header block, ``Host`` included, in order; or its lines as they are sent, each one's end
        included. Framing fields are not among them: they are made from the body.
    :param body: None for none: then POST, PUT and PATCH say ``Content-Length: 0``.
    :param timeouts: the route's.
    :param deadline: when the whole exchange is cut, by ``time.monotonic``. None: ``timeouts.total`` from now on, if set.
    :param client_gone: asked every half second while the upstream is silent, after the request; True ends the exchange.
    :param upgrade: whether the fields ask for one, so that the answer 101 is expected.
    :param fresh: whether it gets a new connection, and none that has been kept.
    """

    __slots__ = ("block", "body", "client_gone", "deadline", "fresh", "method", "origin", "target", "timeouts", "upgrade")

    def __init__(
        self,
        method: str,
        origin: Origin,
        target: bytes,
        fields: bytes | Sequence[tuple[str, str]],
        body: bytes | SizedBody | None = None,
        *,
        timeouts: Timeouts | Patience,
        deadline: float | None = None,
        client_gone: Callable[[], bool] | None = None,
        upgrade: bool = False,
        fresh: bool = False,
    ) -> None:
        self.method = method
        self.origin = origin
        self.target = target
        self.block = fields if isinstance(fields, bytes) else encode_fields(fields)
        self.body = body
        self.timeouts = patience = timeouts if isinstance(timeouts, Patience) else Patience(timeouts)
        if deadline is None and patience.total is not None:
            deadline = time.monotonic() + patience.total
        self.deadline = deadline
        self.client_gone = client_gone
        self.upgrade = upgrade
        self.fresh = fresh

    @property
    def url(self) -> str:
        """For those who know requests; it is not what is sent."""
        return f"{self.origin}{self.target.decode('latin-1')}"

    @property
    def headers(self) -> CaseInsensitiveDict[str]:
        """For those who know requests; repetitions are lost, and changing it changes nothing."""
        return CaseInsensitiveDict(self.fields)

    @property
    def fields(self) -> list[tuple[str, str]]:
        """``(name, value)`` of each line of the block."""
        lines = self.block.decode("latin-1").split("\r\n")[:-1]
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
