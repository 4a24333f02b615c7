"""The errors of gwproxy, all of them.

::

    GatewayError                    never raised itself
    ├── HttpError                   answered to the client; a class is its status
    │   ├── BadRequest              400
    │   ├── RouteNotFound           404
    │   ├── RequestTimeout          408
    │   ├── PayloadTooLarge         413
    │   ├── BadGateway              502
    │   ├── ServiceUnavailable      503
    │   └── GatewayTimeout          504
    ├── ConfigurationRefused        a document with problems; carries every one
    ├── PluginRefused               a plugin that cannot take part, by name
    ├── WheelRefused                a wheel, or a deployment of some, that is not loaded; says why
    ├── StoreUnavailable            Redis did not answer in its time
    ├── ClientGone                  the client closed before its request was complete
    └── CommandFailed               a command that could not do what was asked

    Aborted                         a plugin ended the request
    BudgetExceeded                  a hook ran out of its time

The last two are no ``Exception``: a plugin's own ``except Exception`` must not swallow them. What a client sees of
any of these is the fixed text of :data:`TEXTS`; the message of the exception goes to the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gwproxy.model import Problem

#: What the client reads in ``{"error": ...}``, by status. Fixed texts: users match on them.
TEXTS: dict[int, str] = {
    400: "Bad Request",
    401: "Authentication required",
    403: "Forbidden",
    404: "Route not found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Payload too large",
    414: "URI Too Long",
    417: "Expectation Failed",
    429: "Rate limit exceeded",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class GatewayError(Exception):
    """The root: everything gwproxy raises on purpose and expects somebody to catch."""


class HttpError(GatewayError):
    """A request that ends with an error response.

    :param detail: for the log; never shown to the client.
    :param status: replaces the status of the class (405, 431, 501, ...).
    :param headers: sent with the response, e.g. ``("Retry-After", "1")``.
    """

    status: int = 500

    def __init__(self, detail: str = "", *, status: int | None = None, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        if status is not None:
            self.status = status
        self.headers = tuple(headers)

    @property
    def text(self) -> str:
        """What the client is told."""
        return TEXTS[self.status]


class BadRequest(HttpError):
    """The request is malformed or ambiguous."""

    status = 400


class RouteNotFound(HttpError):
    """No route matches host, path, headers and method."""

    status = 404


class RequestTimeout(HttpError):
    """The client took too long to send its request."""

    status = 408


class PayloadTooLarge(HttpError):
    """The request's body is beyond the route's limit."""

    status = 413


class BadGateway(HttpError):
    """The upstream refused, reset, could not be resolved, or sent what is not HTTP."""

    status = 502


class ServiceUnavailable(HttpError):
    """The gateway cannot serve this now; ``Retry-After`` is among the headers where it is known."""

    status = 503


class GatewayTimeout(HttpError):
    """The upstream was too slow."""

    status = 504


class ConfigurationRefused(GatewayError):
    """A configuration that is not valid as a whole; ``problems`` holds every reason."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(f"{len(problems)} problem{'s' if len(problems) != 1 else ''}: {problems[0] if problems else ''}")
        self.problems = tuple(problems)


class PluginRefused(GatewayError):
    """A plugin that cannot take part: it does not import, or does not fit the specifications."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"plugin {name!r}: {reason}")
        self.name = name
        self.reason = reason


class WheelRefused(GatewayError):
    """A wheel, its signature, or a deployment of wheels is not what it has to be.

    :ivar reason: what is wrong, in one line that names the wheel, key or file as far as it is known.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StoreUnavailable(GatewayError):
    """The store did not answer in its time, or its breaker is open."""


class ClientGone(GatewayError):
    """The client closed the connection before its request was complete."""


class CommandFailed(GatewayError):
    """A command could not do what was asked; the message says what to do next."""


class Aborted(BaseException):
    """A plugin ended the request with :meth:`gwproxy.Context.abort`."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: Any = None, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = tuple(headers)


class BudgetExceeded(BaseException):
    """A hook ran longer than its ``budget``; thrown into it from outside."""
