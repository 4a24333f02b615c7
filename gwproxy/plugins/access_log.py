"""Log every request as one JSON object: who asked for what, what the answer was, how long it took.

Entries are written after the last byte has left, so that size, duration and whether the client got everything are
known; ``gwproxy logs`` shows them. Credentials are never logged: values that go by the name of a secret are masked in
queries, headers and bodies, whatever ``redact`` says.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Annotated, Any

import orjson
from pydantic import Field

from gwproxy import Context, Gateway, Headers, Outcome, Plugin, Size, hookimpl
from gwproxy.plugins.redaction import MASK, Form, Redaction, encode, form_of, timestamp
from gwproxy.plugins.sinks import SinkConfig, Sinks

Name = Annotated[str, Field(min_length=1, max_length=128)]
# A body that was kept for the log, and how to read it; None: it was left alone.
Kept = tuple[bytes, Form | None] | None


class AccessLogConfig(SinkConfig):
    """What is logged, and where to."""

    log_body: bool = False
    """Whether JSON, forms and text of up to `body_limit` bytes are logged, of requests and responses. Streams never are."""
    body_limit: Annotated[Size, Field(le=1 << 20)] = 16 << 10
    """The longest body that is logged, in bytes, at most 1 MiB. A longer one, or one of undeclared length, is left alone."""
    headers: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    """Names of request headers to log."""
    redact: Annotated[tuple[Name, ...], Field(max_length=256)] = ()
    """Names whose values are masked: of headers, of query and form parameters, of JSON fields at any depth. Case, `-` and `_` make no
    difference. Names of secrets (`Authorization`, cookies, `*password`, `*token`, `*secret`, `*api_key`, ...) always are."""

    @cached_property
    def redaction(self) -> Redaction:
        """What is masked."""
        return Redaction(self.redact)


class AccessLog(Plugin):
    """Write an entry for every request, whatever became of it."""

    name = "access_log"
    version = "1.0"
    priority = 900
    config_model = AccessLogConfig
    sinks: Sinks

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        """Open the way to where entries go."""
        self.sinks = Sinks(gateway, "access_log")

    @hookimpl
    def pre_proxy(self, ctx: Context, config: AccessLogConfig) -> None:
        """Keep a request's body if it is to be logged: once it is forwarded, it is gone."""
        length = ctx.request.body.length
        if config.log_body and length and length <= _most(ctx, config) and _form(ctx.request.headers):
            ctx.request.get_data()

    @hookimpl
    def response(self, ctx: Context, config: AccessLogConfig) -> None:
        """Register what writes the entry; keep the response's body if it is to be logged."""
        kept: list[Kept] = []
        ctx.on_finish(partial(self._write, ctx, config, kept))  # before the body is read: that may fail, which is to be logged too
        if config.log_body:
            kept.append(_response_body(ctx, config))

    @hookimpl
    def worker_stopping(self) -> None:
        """Write what waits."""
        self.sinks.flush()

    def _write(self, ctx: Context, config: AccessLogConfig, kept: list[Kept], outcome: Outcome) -> None:
        self.sinks.write(config, encode(entry_of(ctx, config, kept[0] if kept else None, outcome)))


def entry_of(ctx: Context, config: AccessLogConfig, response_body: Kept, outcome: Outcome) -> dict[str, Any]:
    """Return the entry: those of the contract and the host always, the others only where there is something to say."""
    request = ctx.request
    entry: dict[str, Any] = {
        "method": request.method,
        "path": request.path,
        "status": outcome.status,
        "user_id": ctx.state.get("user_id"),
        "latency_ms": round(outcome.duration * 1000, 3),
        "timestamp": timestamp(),
        "route": ctx.route.id if ctx.route is not None else None,
        "consumer": ctx.consumer.id if ctx.consumer is not None else None,
        "upstream": ctx.upstream.base if ctx.upstream is not None else None,
        "request_id": ctx.request_id,
        "client_ip": request.remote_addr,
        "bytes": outcome.bytes_out,
        "completed": outcome.completed,
        "host": request.host,
    }
    if request.query_string:
        entry["query"] = config.redaction.query(request.query_string)
    if config.headers:
        entry["headers"] = _headers(ctx, config)
    if ctx.shadowed:
        entry["shadowed"] = [{"plugin": s.plugin, "phase": s.phase, "action": s.action, "detail": s.detail} for s in ctx.shadowed]
    if config.log_body:
        _add_bodies(entry, ctx, config, response_body)
    elif ctx.response is not None and ctx.response.unread:
        entry["body_unread"] = ["response"]
    return entry


def _headers(ctx: Context, config: AccessLogConfig) -> dict[str, str]:
    found = ((name, ctx.request.headers.getlist(name)) for name in config.headers)
    return {name: MASK if config.redaction.hides(name) else ", ".join(values) for name, values in found if values}


def _add_bodies(entry: dict[str, Any], ctx: Context, config: AccessLogConfig, response_body: Kept) -> None:
    data = ctx.request.body.replayable(config.body_limit)  # what a plugin read is kept; nothing is read here
    bodies = {"request": None if data is None else (data, _form(ctx.request.headers)), "response": response_body}
    unread = []
    for name, kept in bodies.items():
        if kept is None:
            unread.append(name)
        elif kept[0]:
            shown = _shown(*kept, config.redaction)
            if shown is None:
                unread.append(name)
            else:
                entry[f"{name}_body"] = shown
    if unread:
        entry["body_unread"] = unread


def _response_body(ctx: Context, config: AccessLogConfig) -> Kept:
    """Return a body whose length is declared and small; nothing is waited for but the rest of it."""
    response = ctx.response
    if response is None or response.body.length is None or response.body.length > _most(ctx, config):
        return None
    form = _form(response.headers)
    if response.body.length and form is None:
        return None
    data = response.get_data()
    return None if data is None else (data, form)


def _form(headers: Headers) -> Form | None:
    """Return how a body with these headers can be read; None if it cannot."""
    coding = headers.get("Content-Encoding", "identity")
    return form_of(headers.get("Content-Type")) if coding == "identity" else None


def _most(ctx: Context, config: AccessLogConfig) -> int:
    return config.body_limit if ctx.route is None else min(config.body_limit, ctx.route.max_buffer)


def _shown(data: bytes, form: Form | None, redaction: Redaction) -> Any:
    """Return a body as it is logged; None if it is not what its type says: what cannot be read cannot be masked."""
    if form == "json":
        try:
            return redaction.json(orjson.loads(data))
        except orjson.JSONDecodeError:
            return None
    text = data.decode("utf-8", "replace")
    return redaction.query(text) if form == "form" else text if form else None
