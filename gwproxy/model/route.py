"""What is matched, and what happens on the way."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from gwproxy.model.base import Duration, Identifier, Milliseconds, Model, Share, Shorthand, Size, Text

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Timeouts(Model):
    """How long a route waits, in seconds."""

    connect: Duration = 5.0
    """To connect to a target, TLS included."""
    head: Duration = 30.0
    """From the request sent to the complete response head (504)."""
    read: Duration = 30.0
    """The longest silence of the upstream, and of a client that reads its response; in a WebSocket, of both at once."""
    total: Duration | None = None
    """The whole exchange, cut when exceeded. None: unlimited."""


def _timeouts(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"read": value, "head": value}
    return value


class PhaseBudgets(Model):
    """What a plugin's hooks may take, phase by phase, in milliseconds. A phase that is not named has the entry's `budget`."""

    pre_auth: Milliseconds | None = None
    """Of its hook in `pre_auth`."""
    auth: Milliseconds | None = None
    """Of its hook in `auth`."""
    post_auth: Milliseconds | None = None
    """Of its hook in `post_auth`."""
    pre_proxy: Milliseconds | None = None
    """Of its hook in `pre_proxy`."""
    post_proxy: Milliseconds | None = None
    """Of its hook in `post_proxy`."""
    response: Milliseconds | None = None
    """Of its hook in `response`."""


def _phase_budgets(value: object) -> object:
    """Take a number for all phases."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return dict.fromkeys(PhaseBudgets.model_fields, value)
    return value


class PluginBreaker(Model):
    """When an entry of a plugin is switched off, in a worker."""

    failures: int = Field(default=5, ge=1, le=10_000)
    """Failures within `window` that switch it off."""
    window: Duration = 10.0
    """Seconds."""
    open_for: Duration = 10.0
    """Seconds until one request tries it again: if it fails there, it is off for as long once more."""


#: What follows if a hook fails.
OnError = Literal["fail", "ignore", "disable"]


class PluginRef(Model):
    """A plugin on a route, or on every route."""

    name: Text
    """The plugin's entry point name."""
    config: dict[str, Any] = Field(default_factory=dict, repr=False)  # as written, secrets too: a plugin may log its route
    """Validated by the plugin's own model."""
    enabled: bool = True
    """False on a route removes a global entry of the same name."""
    priority: int | None = Field(default=None, ge=-1_000_000, le=1_000_000)
    """Replaces the plugin's own; lowest first."""
    on_error: OnError | None = None
    """What happens if a hook raises or runs out of its budget: 500 (`fail`), the request goes on (`ignore`), or 500 until it repeats,
    then the entry is switched off for a while (`disable`). None: `fail`, in `response` `ignore`."""
    budget: Duration = 5.0
    """Seconds a hook may take, not counting waiting for the client's or the upstream's body."""
    budget_ms: Annotated[PhaseBudgets, BeforeValidator(_phase_budgets), Shorthand("number")] | None = None
    """The same in milliseconds, instead of `budget`: a number, or an object with one for each phase."""
    breaker: PluginBreaker = PluginBreaker()
    """When the entry is switched off: if its hooks run past their budget again and again, and with `on_error: disable` if they fail."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """In `shadow`, aborts and changes are recorded and discarded."""

    @field_validator("budget_ms")
    @classmethod
    def _given_once(cls, value: PhaseBudgets | None, info: ValidationInfo) -> PhaseBudgets | None:
        """Refuse two budgets for all phases: one of them would be ignored."""
        if value is not None and None not in value.__dict__.values() and info.data.get("budget", 5.0) != 5.0:
            raise ValueError("the budget is given twice, as 'budget' and as 'budget_ms'")
        return value

    def on_error_in(self, phase: str) -> OnError:
        """Return what follows if its hook of a phase fails."""
        return self.on_error or ("ignore" if phase == "response" else "fail")

    def budget_in(self, phase: str) -> float:
        """Return the seconds its hook of a phase may take."""
        given = getattr(self.budget_ms, phase, None)
        return self.budget if given is None else given / 1000


_NAMES = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]


class Split(Model):
    """Requests shared out between upstreams by weight."""

    weights: Annotated[dict[Text, Annotated[int, Field(ge=0, le=1_000_000)]], Field(min_length=1, max_length=100)]
    """By upstream, a name or a URL; the route's own `upstream` is one of them. A share is a weight of their sum."""
    sticky: Annotated[str, Field(pattern=r"^(user|client|(cookie|header):[A-Za-z0-9_.-]{1,128})$")] | None = None
    """What stays with one upstream: `user` (else `client`), `client`, `header:NAME`, `cookie:NAME` (set by the gateway). None: nothing."""
    max_age: int = Field(default=86_400, ge=1, le=31_536_000)
    """Seconds that the cookie lasts."""


class RouteCanary(Model):
    """Requests that ask for another upstream, by header or by cookie: before, and beside, any split."""

    upstream: Text
    """Where they go: a name or a URL."""
    header: _NAMES | None = None
    """A header field that asks for it."""
    cookie: _NAMES | None = None
    """A cookie that asks for it."""
    value: Annotated[str, Field(min_length=1, max_length=1024)] = "always"
    """What the one or the other holds then, exactly."""


class Mirror(Model):
    """Copies of requests for another upstream, whose answers nobody sees."""

    upstream: Text
    """Where they go: a name or a URL."""
    share: Share = 1.0
    """How many of the requests are copied, 0 to 1."""
    max_body: Size = 64 * 1024
    """Requests with a longer body are not copied."""
    limit: int = Field(default=100, ge=1, le=10_000)
    """The most copies under way at once, in a worker; what is beyond is not copied."""


class Route(Model):
    """What is matched, where it goes, and what happens on the way."""

    id: Identifier = ""
    """Unique. Default: derived from the path."""
    path: Annotated[str, Field(min_length=1, max_length=2048)]
    """A prefix of whole segments, `=/exact`, `/a/{param}` template, or `~regex` (RE2)."""
    methods: tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9-]{0,19}$")], ...] = ()
    """Empty: all. GET includes HEAD."""
    hosts: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = ()
    """Exact names or `*.` wildcards; empty: any."""
    headers: dict[Text, Annotated[str, Field(max_length=1024)]] = Field(default_factory=dict)
    """Header values a request must have, exactly."""
    priority: int = Field(default=0, ge=-1_000_000, le=1_000_000)
    """Higher first."""
    upstream: Text
    """A URL (a path in it is prepended), or the name of an upstream."""
    split: Split | None = None
    """Shares its requests out between upstreams by weight. None: all go to `upstream`."""
    canary: RouteCanary | None = None
    """Requests that ask for it by header or cookie go to another upstream. None: none do."""
    mirror: Mirror | None = None
    """Sends copies of requests to another upstream. None: none."""
    strip_path: bool = False
    """True: the matched prefix, template or regex match is removed before forwarding."""
    preserve_host: bool = False
    """False: the upstream's own name as `Host`, the client's in `X-Forwarded-Host`."""
    timeout: Annotated[Timeouts, BeforeValidator(_timeouts), Shorthand("number")] = Timeouts()
    """Seconds: a number is `read` and `head`, or an object."""
    max_body: Size | None = None
    """The largest request body; 413 beyond. None: unlimited."""
    max_buffer: Size = 1 << 20
    """The most a plugin may read of a request's body (413 beyond) or a response's (left unread, noted)."""
    websocket: bool = False
    """True: upgrades to WebSocket are tunnelled after the request phases ran. False: 501."""
    plugins: tuple[PluginRef, ...] = ()
    """Beside the global ones; an entry of the same name replaces a global one as a whole."""
