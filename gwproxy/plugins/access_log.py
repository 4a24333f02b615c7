"""Log every request as one JSON object: who asked for what, what the answer was, how long it took.

Entries are written after the last byte has left, so that size, duration and whether the client got everything are
known; ``gwproxy logs`` shows them. Credentials are never logged: values that go by the name of a secret are masked in
queries, headers and bodies, whatever ``redact`` says.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from pydantic import Field

from gwproxy import Context, Gateway, Plugin, Size, hookimpl
from gwproxy.plugins.log_entry import Logged
from gwproxy.plugins.redaction import Redaction
from gwproxy.plugins.sinks import SinkConfig, Sinks

Name = Annotated[str, Field(min_length=1, max_length=128)]


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
    def logged(self) -> Logged:
        """What follows from all of it."""
        return Logged(Redaction(self.redact), self.headers, bodies=self.log_body, body_limit=self.body_limit)


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
        config.logged.keep_request(ctx)

    @hookimpl
    def response(self, ctx: Context, config: AccessLogConfig) -> None:
        """Register what writes the entry; keep the response's body if it is to be logged."""
        config.logged.await_end(ctx, self.sinks, config)

    @hookimpl
    def worker_stopping(self) -> None:
        """Write what waits."""
        self.sinks.flush()
