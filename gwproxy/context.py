"""What a plugin sees of a request, and may change.

One :class:`Context` lives as long as its request. Everything here is one request's own: nothing is shared with another
request but the route and the consumer, which are frozen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn
from urllib.parse import urlsplit

from mypy_extensions import mypyc_attr

from gwproxy.errors import Aborted
from gwproxy.http.headers import Headers
from gwproxy.messages import Request, Response
from gwproxy.model import Consumer, Route, Timeouts


@mypyc_attr(acyclic=True)
class Patience:
    """What a model of timeouts says, in seconds. PERF: an attribute of a model costs a look-up by name; these cost nothing.

    :ivar total: None: unlimited.
    """

    __slots__ = ("connect", "head", "read", "total")

    def __init__(self, timeouts: Timeouts) -> None:
        self.connect: float = timeouts.connect
        self.head: float = timeouts.head
        self.read: float = timeouts.read
        self.total: float | None = timeouts.total


@mypyc_attr(acyclic=True, free_list_len=1)
class UpstreamChoice:
    """Where the request goes; a plugin may change both before the ``pre_proxy`` phase ends.

    :ivar base: scheme, host and port, e.g. ``http://10.0.0.5:8000``. For a named upstream its name stands for the host
        (``http://users``) until the request has been forwarded, then the target that got it.
    :ivar target: path and query, as they are sent. Of a named upstream with several targets, the path of each target's URL
        still comes first, unless a plugin has assigned :attr:`url`.
    :ivar replaced: whether a plugin has.
    """

    __slots__ = ("_cookie", "_live", "_patience", "_timeout", "base", "replaced", "target")

    def __init__(self, base: str, target: str, timeout: Timeouts, patience: Patience | None = None) -> None:
        """:param patience: made of ``timeout`` before; None: it was not."""
        self.base = base
        self.target = target
        self.replaced = False
        self._timeout = timeout
        self._patience = patience
        self._live: Any = None  # the upstream that a split or canary has chosen; None: the route's
        self._cookie: str | None = None  # a Set-Cookie that keeps the client there; None: there is nothing to set

    @property
    def timeout(self) -> Timeouts:
        """The route's, as a :class:`gwproxy.model.Timeouts`. A number assigned is ``read`` and ``head``, in seconds."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: Timeouts | float) -> None:
        if not isinstance(value, Timeouts):
            value = Timeouts.model_validate({**self._timeout.model_dump(), "read": value, "head": value})
        self._timeout = value
        self._patience = None

    def patience(self) -> Patience:
        """Return what :attr:`timeout` says."""
        known = self._patience
        if known is None:
            known = self._patience = Patience(self._timeout)
        return known

    @property
    def url(self) -> str:
        """The whole URL. Assigning one with another scheme, host or port sends the request there."""
        return self.base + self.target

    @url.setter
    def url(self, value: str) -> None:
        self.replaced = True
        if value.startswith(self.base) and value[len(self.base) : len(self.base) + 1] == "/":
            self.target = value[len(self.base) :]
            return
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment or parts.port == 0:
            raise ValueError("an upstream URL is http:// or https://, a host, a path and a query")
        self.base = f"{parts.scheme}://{parts.netloc}"
        self.target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


@dataclass(frozen=True, slots=True, init=False)
class Outcome:
    """How a request ended, given to what :meth:`Context.on_finish` registered.

    :ivar status: as sent.
    :ivar bytes_in: received of the request's body.
    :ivar bytes_out: sent of the response's body.
    :ivar duration: seconds from the request's head to the last byte.
    :ivar completed: whether the whole response was handed to the client's connection.
    """

    status: int
    bytes_in: int
    bytes_out: int
    duration: float
    completed: bool

    def __init__(self, status: int, bytes_in: int, bytes_out: int, duration: float, completed: bool) -> None:
        # PERF: half of what the one costs that is made for frozen classes, which finds each setter by its name.
        _set_status(self, status)
        _set_bytes_in(self, bytes_in)
        _set_bytes_out(self, bytes_out)
        _set_duration(self, duration)
        _set_completed(self, completed)


_set_status, _set_bytes_in, _set_bytes_out, _set_duration, _set_completed = (vars(Outcome)[one.name].__set__ for one in fields(Outcome))


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What a plugin in ``mode: shadow`` would have done.

    :ivar action: ``abort``, ``authenticate``, ``change`` or ``error``.
    :ivar detail: the status of an abort, else what was changed; no values.
    """

    plugin: str
    phase: str
    action: str
    detail: str


@mypyc_attr(allow_interpreted_subclasses=True)
class Context:
    """One request on its way through the gateway.

    :ivar request: the :class:`Request`.
    :ivar response: None until there is one; in the ``response`` phase always what will leave.
    :ivar route: the matched :class:`~gwproxy.model.Route`; None if none matched.
    :ivar params: what the path template's ``{param}`` stood for, by name, as it stands in the canonical path.
    :ivar upstream: the :class:`UpstreamChoice`; None if no route matched.
    :ivar state: shared by the plugins of this request; ``user_id`` and ``authenticated`` are set by authentication.
    :ivar consumer: the :class:`~gwproxy.model.Consumer` that was found; None if there is none.
    :ivar response_headers: replace same-named headers of whatever leaves, refusals included.
    :ivar request_id: the client's ``X-Request-ID`` if it is well-formed, else made here.
    :ivar shadowed: what plugins in ``mode: shadow`` would have done.
    :ivar started: seconds, of ``time.monotonic``.
    """

    __slots__ = (
        "_aborted",
        "_authenticated",
        "_challenges",
        "_compiled",
        "_consumer_of",
        "_finisher_steps",
        "_finishers",
        "_forwarded",
        "_greenlet",
        "_id_field",
        "_own_seconds",
        "_response_headers",
        "_shadowed",
        "_side",
        "_step",
        "_step_since",
        "_ticket",
        "_timed",
        "_upstream_seconds",
        "consumer",
        "params",
        "request",
        "request_id",
        "response",
        "route",
        "started",
        "state",
        "upstream",
    )

    def __init__(
        self,
        request: Request,
        route: Route | None = None,
        *,
        params: dict[str, str] | None = None,
        upstream: UpstreamChoice | None = None,
        request_id: str = "",
        consumer_of: Callable[[dict[str, Any]], Consumer | None] = lambda state: None,
        started: float | None = None,
    ) -> None:
        self.request = request
        self.response: Response | None = None
        self.route = route
        self.params = params if params is not None else {}
        self.upstream = upstream
        self.state: dict[str, Any] = {}
        self.consumer: Consumer | None = None
        self._response_headers: Headers | None = None  # made when first asked for
        self.request_id = request_id
        # PERF: made when first asked for, as few requests have any.
        self._challenges: list[str] | None = None
        self._finishers: list[Callable[[Outcome], object]] | None = None
        self._shadowed: list[Shadowed] | None = None
        self.started = time.monotonic() if started is None else started
        self._consumer_of = consumer_of
        self._compiled: Any = None  # the route, as it is served
        self._aborted: Aborted | None = None
        self._authenticated = False
        self._forwarded: Response | None = None  # the upstream's, whatever a plugin puts in its place
        self._finisher_steps: list[object] = []  # which step registered each finisher
        # What runs now (a step, one that was cut off, or the twin in which a shadow's runs), since when, and in which
        # greenlet: the watchdogs look here.
        self._step: object = None
        self._step_since = 0.0
        self._greenlet: object = None
        self._timed: Any = None  # that greenlet, if it notes for how long it has waited
        self._ticket = 0  # what tells this request apart where only one may try something; 0: it tries nothing
        self._side: Any = None  # of a canary, where it is counted that a hook failed and the request went on all the same
        # What it took until an upstream had answered, and what else until the response could leave.
        self._upstream_seconds = 0.0
        self._own_seconds = 0.0
        self._id_field: Any = None  # made of request_id when first asked for: both sides get it

    @property
    def challenges(self) -> list[str]:
        """The ``WWW-Authenticate`` challenges that a 401 gets."""
        if self._challenges is None:
            self._challenges = []
        return self._challenges

    @property
    def finishers(self) -> list[Callable[[Outcome], object]]:
        """What is called when the request is over."""
        if self._finishers is None:
            self._finishers = []
        return self._finishers

    @property
    def shadowed(self) -> list[Shadowed]:
        """What plugins in ``mode: shadow`` would have done."""
        if self._shadowed is None:
            self._shadowed = []
        return self._shadowed

    @property
    def response_headers(self) -> Headers:
        """What replaces same-named headers of whatever leaves."""
        if self._response_headers is None:
            self._response_headers = Headers()
        return self._response_headers

    @response_headers.setter
    def response_headers(self, value: Headers) -> None:
        self._response_headers = value

    def abort(self, status: int, body: Any = None, headers: Sequence[tuple[str, str]] = ()) -> NoReturn:
        """End the request here with ``status`` and ``body``; only the ``response`` phase still runs.

        It cannot be undone by catching what it raises.

        :param body: None for none, bytes, str (sent as text), or anything JSON can hold.
        :param headers: of the response; a 401 gets ``WWW-Authenticate`` from :meth:`challenge` by itself.
        """
        self._aborted = Aborted(status, body, headers)
        raise self._aborted

    def authenticate(self, user_id: str, consumer: Consumer | None = None) -> None:
        """Say who is calling: sets ``state["user_id"]`` and ``state["authenticated"]``, and finds the consumer.

        :param consumer: who it is, if the plugin knows; None looks it up by the consumers' ``match``.
        :raises ValueError: ``user_id`` is empty or has control characters, and could not be told to an upstream.
        """
        if not user_id or not user_id.isprintable():
            raise ValueError("a user id is a non-empty string without control characters")
        self.state["user_id"] = user_id
        self.state["authenticated"] = self._authenticated = True
        self.consumer = consumer if consumer is not None else self._consumer_of(self.state)

    def challenge(self, value: str) -> None:
        """Add a ``WWW-Authenticate`` challenge (RFC 9110 section 11.6.1), sent if the request ends with 401."""
        if value not in self.challenges:
            self.challenges.append(value)

    def on_finish(self, function: Callable[[Outcome], object]) -> None:
        """Call ``function`` after the last byte has been sent, or the connection was lost.

        What it raises is logged and does nothing else. It has the ``budget`` of the entry that registers it: the next
        request of the connection waits until it has returned.
        """
        self.finishers.append(function)
        self._finisher_steps.append(self._step)

    def shadow(self) -> Context:
        """Return a twin for a plugin in shadow mode: what it changes there changes nothing here, but bodies are shared."""
        twin = Context(self.request.copy(), self.route, params=dict(self.params), request_id=self.request_id, started=self.started)
        if self.upstream is not None:
            twin.upstream = UpstreamChoice(self.upstream.base, self.upstream.target, self.upstream.timeout)
            twin.upstream.replaced = self.upstream.replaced
        twin.response = self.response.copy() if self.response is not None else None
        twin.state = dict(self.state)
        twin.consumer = self.consumer
        twin._response_headers = self._response_headers.copy() if self._response_headers is not None else None
        twin._consumer_of = self._consumer_of
        return twin
