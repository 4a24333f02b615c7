"""Where requests go: upstreams, their targets, and what becomes of those that fail."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gwproxy.model.base import Duration, Model, Share, Shorthand, Text

_SERVER = r"^(\d{1,3}(\.\d{1,3}){3}(:\d{1,5})?|\[[0-9a-fA-F:.]{2,45}\](:\d{1,5})?)$"  # of DNS


class Target(Model):
    """One address of an upstream."""

    url: Text
    """`http://` or `https://`, host, port; a path in it is prepended."""
    weight: int = Field(default=1, ge=0, le=1000)
    """Share among the targets. 0 drains it: it gets no new request, and those it has finish."""
    resolve: Literal["a", "aaaa", "all", "srv"] | None = None
    """Asks DNS for the URL's name, uses every address of the answer as a target, and asks again when the answer's time to live is
    over: `a` (IPv4), `aaaa` (IPv6), `all` (both), or `srv` (a service, as in `http://_http._tcp.users.internal`). None: the system
    resolves the name for each new connection."""


def _status(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value  # ``502`` is how one writes it


class RetryBudget(Model):
    """How many retries there are at most, in a worker, over any ten seconds: the share, and what is allowed beside."""

    share: Share = 0.2
    """Retries as a share of the requests."""
    min_per_second: float = Field(default=10.0, ge=0, le=10_000)
    """Retries a second beside the share, so that an upstream with few requests has any."""


class RetryBackoff(Model):
    """How long to wait before a retry that the upstream has to bear: at random, so that retries do not come together."""

    base: float = Field(default=0.025, gt=0, le=10)
    """Seconds at most before the first retry; before the second three times that, then seven times, and so on."""
    max: float = Field(default=0.25, gt=0, le=10)
    """Seconds at most before any."""


class Retries(Model):
    """When a request is sent again: to another target, where there is one."""

    attempts: int = Field(default=2, ge=1, le=10)
    """All tries, the first included."""
    on: tuple[Annotated[Literal["connect", "reset", "timeout", "500", "502", "503", "504"], BeforeValidator(_status)], ...] = (
        "connect",
        "reset",
    )
    """What is tried again."""
    methods: tuple[str, ...] = ("GET", "HEAD", "OPTIONS")
    """The methods whose repetition is safe, by the operator's word."""
    budget: RetryBudget | None = RetryBudget()
    """How many there are at most, so that they never multiply an outage. null: unlimited."""
    backoff: RetryBackoff | None = RetryBackoff()
    """How long to wait before one. null: none waits."""


Statuses = tuple[Annotated[str, Field(pattern=r"^[1-5]([0-9][0-9]|xx)$"), BeforeValidator(_status)], ...]


class Health(Model):
    """Active checks of each target: by one worker of a host, for all of them."""

    path: Annotated[str, Field(pattern=r"^/")] = "/healthz"
    """Asked with GET."""
    statuses: Annotated[Statuses, Field(min_length=1)] = ("2xx", "3xx")
    """What a target that is well answers: `200`, or `2xx` for all from 200 to 299."""
    interval: Duration = 5.0
    """Seconds between checks."""
    jitter: float = Field(default=0.1, ge=0, le=1)
    """Share of `interval` by which each is longer or shorter, at random: so that many gateways do not ask at once."""
    timeout: Duration = 1.0
    """Seconds a check may take."""
    healthy_after: int = Field(default=2, ge=1, le=100)
    """Successes in a row that bring a target back."""
    unhealthy_after: int = Field(default=3, ge=1, le=100)
    """Failures in a row that take a target out."""


class Ejection(Model):
    """When a target is taken out by what requests to it come to, and how it returns. Each worker judges by its own requests."""

    consecutive_errors: int | None = Field(default=5, ge=1, le=10_000)
    """Failures in a row that eject a target: no connection, no answer in time, a reset, or one of `statuses`. None: any number."""
    error_rate: float | None = Field(default=None, gt=0, le=1)
    """Share of failures within `window` that ejects it, if there were `min_requests`. None: any share."""
    window: Duration = 10.0
    """Seconds over which `error_rate` is counted."""
    min_requests: int = Field(default=20, ge=1, le=1_000_000)
    """Requests to a target within `window` before its `error_rate` counts."""
    statuses: Statuses = ("502", "503", "504")
    """Answers that are failures: `503`, or `5xx` for all from 500 to 599."""
    base_time: Duration = 30.0
    """Seconds it is out the first time; twice that the second time in a row, and so on."""
    max_time: Duration = 300.0
    """The most seconds it is out."""
    max_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the targets that may be out, unhealthy ones included, rounded down: no ejection goes beyond it."""


class DNS(Model):
    """How the names of targets with `resolve` are looked up."""

    servers: Annotated[tuple[Annotated[str, Field(pattern=_SERVER)], ...], Field(max_length=8)] = ()
    """Addresses of DNS servers, asked in this order: `10.0.0.2`, `10.0.0.2:5353` or `[2001:db8::2]:53`. Empty: those of
    `/etc/resolv.conf`."""
    timeout: Duration = 2.0
    """Seconds a lookup may take."""
    min_ttl: Duration = 1.0
    """The fewest seconds an answer is used before it is asked for again, whatever its time to live."""
    max_ttl: Duration = 300.0
    """The most seconds."""


class Breaker(Model):
    """When an upstream is left alone."""

    failures: int = Field(default=5, ge=1, le=10_000)
    """Failures within `window` that open it."""
    window: Duration = 10.0
    """Seconds."""
    open_for: Duration = 10.0
    """Seconds until requests probe again."""
    half_open: int = Field(default=1, ge=1, le=1000)
    """How many may probe at once; as many successes close it, one failure opens it again."""


class TLS(Model):
    """How a TLS upstream is verified, and who we are to it."""

    verify: bool = True
    """Verify its certificate and name."""
    ca: str | None = None
    """A file of CA certificates, PEM. None: the system's."""
    cert: str | None = None
    """A file with our certificate, PEM."""
    key: str | None = None
    """A file with its key, PEM."""


class Adaptive(Model):
    """A limit that follows what the upstream can do, by its latency: the time from a request sent to the head of its response."""

    min: int = Field(default=4, ge=1, le=1000)
    """It is never less; while the base latency is measured, it is this."""
    initial: int = Field(default=20, ge=1, le=100_000)
    """What it begins with."""
    interval: Duration = 0.2
    """Seconds after which it is adjusted, if there were ten answers."""
    tolerance: float = Field(default=0.25, ge=0, le=10)
    """A median latency above the base by this share is as good as the base."""
    remeasure: Duration = 60.0
    """Seconds after which the base latency is measured anew."""


def _adaptive(value: object) -> object:
    return {} if value is True else None if value is False else value


class Concurrency(Model):
    """How many requests one worker has at an upstream at once, all targets together; beyond that, 503 with `Retry-After`."""

    limit: int = Field(default=1000, ge=1, le=100_000)
    """The most requests in flight, responses that still stream and WebSockets included."""
    queue: int = Field(default=100, ge=0, le=100_000)
    """How many more may wait, in order of arrival; beyond it the answer is 503 at once."""
    wait: Duration = 1.0
    """Seconds they wait at most; then 503."""
    adaptive: Annotated[Adaptive | None, BeforeValidator(_adaptive), Shorthand("true")] = None
    """The limit follows the upstream's latency, up to `limit`; `true` is an object of defaults. None: it is `limit`."""


class Upstream(Model):
    """A service, by its targets."""

    targets: Annotated[tuple[Target, ...], Field(min_length=1, max_length=1000)]
    """Where it is."""
    algorithm: Literal["round_robin", "least_connections", "two_choices", "random", "consistent_hash"] = "round_robin"
    """Which target next. Each but `consistent_hash` goes by `weight`; `two_choices` takes two at random, and of them the one with
    fewer requests in flight."""
    hash_on: Annotated[str, Field(pattern=r"^(header:[A-Za-z0-9-]+|cookie:[^=;\s]+|client|path)$")] | None = None
    """For `consistent_hash`: `header:X-Key`, `cookie:NAME`, `client` or `path`."""
    hash_balance: float | None = Field(default=None, ge=1, le=100)
    """For `consistent_hash`: the most a target has in flight, as a multiple of its share of all; what is beyond goes to the next
    target of its key, e.g. 1.25. None: unlimited."""
    slow_start: Duration | None = None
    """Seconds in which a target that is new, or back, comes from a tenth of its share to the whole. None: it has the whole at once."""
    retries: Retries | None = None
    """None: only what cannot have been seen by the upstream is sent once more."""
    health: Health | None = None
    """None: no active checks."""
    ejection: Ejection | None = None
    """None: no target is taken out by what requests to it come to."""
    when_all_down: Literal["fail", "try_anyway"] = "fail"
    """While no target is well: `fail` answers 503, `try_anyway` sends to all that have a weight as if they were."""
    dns: DNS = DNS()
    """For targets with `resolve`."""
    breaker: Breaker | None = None
    """None: no breaker."""
    concurrency: Concurrency = Concurrency()
    """How many requests at once."""
    keepalive: bool = True
    """False for upstreams that are not trusted with connection reuse."""
    tls: TLS = TLS()
    """For `https://` targets."""
