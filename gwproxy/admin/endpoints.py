"""What can be asked: one table, from which the app routes and ``/openapi.json`` is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from werkzeug.wrappers import Request

from gwproxy.admin.answers import Answer, EventStream
from gwproxy.admin.asked import Nothing, Parameters
from gwproxy.admin.guard import Caller
from gwproxy.admin.plane import Plane
from gwproxy.store.tokens import Role

Method = Literal["GET", "PUT", "POST", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read and allowed.

    :ivar path: the parameters in the path, by name.
    :ivar query: those of the query, an instance of the endpoint's model.
    :ivar body: of the endpoint's type; None if it takes none.
    :ivar data: the body's bytes.
    """

    request: Request
    plane: Plane
    caller: Caller
    path: dict[str, Any]
    query: Any
    body: Any = None
    data: bytes = b""


Function = Callable[[Call], Answer | EventStream]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """Something that can be asked.

    :ivar path: with parameters in braces, ``/v1/revisions/{revision}``.
    :ivar role: who may.
    :ivar answer: the type of what is answered; None: nothing (204).
    :ivar body: the type of the body; None: there is none.
    :ivar media: of the body.
    :ivar status: if all goes well.
    :ivar refusals: statuses that this one may answer beside those that all may.
    :ivar of: which kind of thing it is about, ``routes``; None: it is about no kind.
    :ivar document: whether the body is a configuration, whose bytes the function reads itself: to tell places in it.
    :ivar headers: header fields that it looks at, as OpenAPI describes parameters.
    :ivar text: the type of an answer that is text, and no JSON; empty: it is JSON.
    :ivar events: whether ``Accept: text/event-stream`` is answered with server-sent events.
    """

    method: Method
    path: str
    function: Function
    role: Role
    answer: Any
    query: type[Parameters] = Nothing
    body: Any = None
    media: str = "application/json"
    status: int = 200
    refusals: tuple[int, ...] = ()
    of: str | None = None
    document: bool = False
    headers: tuple[dict[str, Any], ...] = ()
    text: str = ""
    events: bool = False

    @property
    def name(self) -> str:
        """What the operation is called."""
        name = self.function.__name__
        return name if self.of is None else name.replace("parts", self.of).replace("part", self.of.removesuffix("s"))

    @property
    def summary(self) -> str:
        """The first line of the function's docstring: what it does."""
        return (self.function.__doc__ or "").strip().partition("\n")[0].rstrip(".")

    @property
    def description(self) -> str:
        """The rest of it."""
        lines = (self.function.__doc__ or "").strip().partition("\n")[2].splitlines()
        return " ".join(line.strip() for line in lines).strip()


class Table:
    """Endpoints, as their functions are defined."""

    def __init__(self) -> None:
        self._endpoints: list[Endpoint] = []

    def __iter__(self) -> Iterator[Endpoint]:
        """Yield every endpoint, in the order of definition."""
        return iter(self._endpoints)

    def add(self, method: Method, path: str, *, role: Role, answer: Any, **more: Any) -> Callable[[F], F]:
        """Decorate the function of an endpoint.

        :param more: further fields of :class:`Endpoint`.
        """

        def register(function: F) -> F:
            self._endpoints.append(Endpoint(method, path, function, role, answer, **more))
            return function

        return register
