"""What an entry of the access log says: the part of :mod:`gwproxy.plugins.access_log` that every request passes.

It stands beside the plugin, whose hooks call it, and is compiled where gwproxy is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from gwproxy import Context, Headers, Outcome
from gwproxy.plugins.redaction import MASK, Form, Redaction, encode, form_of, timestamp
from gwproxy.plugins.sinks import SinkConfig, Sinks

# A body that was kept for the log, and how to read it; None: it was left alone.
Kept = tuple[bytes, Form | None] | None


class Logged:
    """What is logged of every request, beside what always is.

    :param headers: names of request headers.
    :param bodies: whether bodies are, of up to ``body_limit`` bytes.
    """

    def __init__(self, redaction: Redaction, headers: Sequence[str], *, bodies: bool, body_limit: int) -> None:
        self.redaction = redaction
        self.headers = headers
        self.bodies = bodies
        self.body_limit = body_limit

    def keep_request(self, ctx: Context) -> None:
        """Keep a request's body if it is to be logged: once it is forwarded, it is gone."""
        if not self.bodies:
            return
        length = ctx.request.body.length
        if length and length <= self._most(ctx) and _form(ctx.request.headers):
            ctx.request.get_data()

    def await_end(self, ctx: Context, sinks: Sinks, config: SinkConfig) -> None:
        """Have the entry written to ``sinks`` when the request has ended; keep the response's body if it is to be logged."""
        entry = _Entry(self, ctx, sinks, config)
        ctx.on_finish(entry.finish)  # before the body is read: that may fail, which is to be logged too
        if self.bodies:
            entry.response_body = self._response_body(ctx)

    def _response_body(self, ctx: Context) -> Kept:
        """Return a body whose length is declared and small; nothing is waited for but the rest of it."""
        response = ctx.response
        if response is None:
            return None
        length = response.body.length
        if length is None or length > self._most(ctx):
            return None
        form = _form(response.headers)
        if length and form is None:
            return None
        data = response.get_data()
        return None if data is None else (data, form)

    def _most(self, ctx: Context) -> int:
        return self.body_limit if ctx.route is None else min(self.body_limit, ctx.route.max_buffer)


class _Entry:
    """The entry of one request, to be written when that has ended."""

    __slots__ = ("_config", "_ctx", "_logged", "_sinks", "response_body")

    def __init__(self, logged: Logged, ctx: Context, sinks: Sinks, config: SinkConfig) -> None:
        self._logged = logged
        self._ctx = ctx
        self._sinks = sinks
        self._config = config
        self.response_body: Kept = None

    def finish(self, outcome: Outcome) -> None:
        self._sinks.write(self._config, encode(self._made(outcome)))

    def _made(self, outcome: Outcome) -> dict[str, Any]:
        """Return the entry: those of the contract and the host always, the others only where there is something to say."""
        ctx, logged = self._ctx, self._logged
        request, route, consumer, upstream = ctx.request, ctx.route, ctx.consumer, ctx.upstream
        entry: dict[str, Any] = {
            "method": request.method,
            "path": request.path,
            "status": outcome.status,
            "user_id": ctx.state.get("user_id"),
            "latency_ms": int(outcome.duration * 1_000_000 + 0.5) / 1000,
            "timestamp": timestamp(),
            "route": None if route is None else route.id,
            "consumer": None if consumer is None else consumer.id,
            "upstream": None if upstream is None else upstream.base,
            "request_id": ctx.request_id,
            "client_ip": request.remote_addr,
            "bytes": outcome.bytes_out,
            "completed": outcome.completed,
            "host": request.host,
        }
        if request.query_string:
            entry["query"] = logged.redaction.query(request.query_string)
        if logged.headers:
            entry["headers"] = self._headers()
        if ctx.shadowed:
            entry["shadowed"] = [{"plugin": s.plugin, "phase": s.phase, "action": s.action, "detail": s.detail} for s in ctx.shadowed]
        if logged.bodies:
            self._add_bodies(entry)
        elif ctx.response is not None and ctx.response.unread:
            entry["body_unread"] = ["response"]
        return entry

    def _headers(self) -> dict[str, str]:
        redaction, headers = self._logged.redaction, self._ctx.request.headers
        found = [(name, headers.getlist(name)) for name in self._logged.headers]
        return {name: MASK if redaction.hides(name) else ", ".join(values) for name, values in found if values}

    def _add_bodies(self, entry: dict[str, Any]) -> None:
        request, logged = self._ctx.request, self._logged
        data = request.body.replayable(logged.body_limit)  # what a plugin read is kept; nothing is read here
        bodies: dict[str, Kept] = {
            "request": None if data is None else (data, _form(request.headers)),
            "response": self.response_body,
        }
        unread = []
        for name, kept in bodies.items():
            if kept is None:
                unread.append(name)
            elif kept[0]:
                shown = _shown(kept[0], kept[1], logged.redaction)
                if shown is None:
                    unread.append(name)
                else:
                    entry[f"{name}_body"] = shown
        if unread:
            entry["body_unread"] = unread


def _form(headers: Headers) -> Form | None:
    """Return how a body with these headers can be read; None if it cannot."""
    coding = headers.get("Content-Encoding", "identity")
    return form_of(headers.get("Content-Type")) if coding == "identity" else None


def _shown(data: bytes, form: Form | None, redaction: Redaction) -> Any:
    """Return a body as it is logged; None if it is not what its type says: what cannot be read cannot be masked."""
    if form == "json":
        try:
            return redaction.json(orjson.loads(data))
        except orjson.JSONDecodeError:
            return None
    text = data.decode("utf-8", "replace")
    return redaction.query(text) if form == "form" else text if form else None
