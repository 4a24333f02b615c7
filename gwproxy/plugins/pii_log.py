"""Log who accesses personal data: one entry for each request that carries any, with the fields, their values masked.

Looks at paths, queries, forms and JSON, by the names of fields and by what values look like. It changes nothing and
refuses nothing. What it could not look at (too long, in a coding it does not know) it says in the entry.
"""

from __future__ import annotations

import zlib
from functools import cached_property, partial
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote

import orjson
from pydantic import Field, field_validator

from gwproxy import Context, Gateway, Headers, Outcome, Plugin, Response, Size, hookimpl
from gwproxy.plugins.pii import DETECTORS, Detector, Findings, Scanner, compile_pattern, mask
from gwproxy.plugins.redaction import Form, encode, form_of, timestamp
from gwproxy.plugins.sinks import SinkConfig, Sinks

Name = Annotated[str, Field(min_length=1, max_length=128)]
Pattern = Annotated[str, Field(max_length=512)]
Body = tuple[bytes | None, Headers]

_FIELDS = (
    *("email", "phone", "phone_number", "mobile", "first_name", "last_name", "full_name", "date_of_birth", "birth_date", "dob"),
    *("address", "street", "ssn", "social_security_number", "national_id", "tax_id", "passport", "passport_number", "driver_license"),
    *("iban", "account_number", "card_number", "credit_card"),
)


class PiiLogConfig(SinkConfig):
    """What is personal, where to look for it, and where entries go."""

    fields: Annotated[tuple[Name, ...], Field(max_length=256)] = _FIELDS
    """Names whose values are personal: of JSON fields, of query, form and path parameters. Case, `-` and `_` make no difference."""
    patterns: tuple[Literal["email", "card", "iban", "phone"], ...] = ("email", "card", "iban", "phone")
    """What is recognized in other fields: e-mail addresses, card numbers and IBANs (both by their check digits), phone numbers with `+`."""
    custom_patterns: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], Pattern], Field(max_length=20)] = Field(
        default_factory=dict
    )
    """Further ones: RE2 expressions by the kind they find, at most 20 of at most 512 characters."""
    where: Annotated[tuple[Literal["path", "query", "request", "response"], ...], Field(min_length=1)] = (
        "path",
        "query",
        "request",
        "response",
    )
    """Where to look; `request` and `response` are bodies: JSON, and forms in requests."""
    scan_limit: Annotated[Size, Field(ge=1024, le=1 << 20)] = 256 << 10
    """The longest body that is looked at, in bytes, also after decompression; 1 KiB to 1 MiB. A longer one is noted as unread."""

    @field_validator("custom_patterns")
    @classmethod
    def _compiles(cls, patterns: dict[str, str]) -> dict[str, str]:
        for kind, pattern in patterns.items():
            if kind in DETECTORS:
                raise ValueError(f"{kind!r} is built in; give the pattern another name")
            try:
                compile_pattern(pattern)
            except ValueError as error:
                raise ValueError(f"{kind!r} is no usable RE2 expression: {error}") from None
        return patterns

    @cached_property
    def scanner(self) -> Scanner:
        """What looks for all of this."""
        custom = [Detector(kind, compile_pattern(pattern), "", 1, 0, str, mask) for kind, pattern in self.custom_patterns.items()]
        return Scanner(self.fields, [*(DETECTORS[kind] for kind in dict.fromkeys(self.patterns)), *custom])


class PiiLog(Plugin):
    """Write an entry for every request with personal data in it, or in what was answered."""

    name = "pii_log"
    version = "1.0"
    priority = 890
    config_model = PiiLogConfig
    sinks: Sinks

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        """Open the way to where entries go."""
        self.sinks = Sinks(gateway, "pii_log")

    @hookimpl
    def pre_proxy(self, ctx: Context, config: PiiLogConfig) -> None:
        """Keep a request's body if it is to be looked at: once it is forwarded, it is gone."""
        length = ctx.request.body.length
        if "request" in config.where and length and length <= _most(ctx, config) and _form(ctx.request.headers):
            ctx.request.get_data()

    @hookimpl
    def response(self, ctx: Context, config: PiiLogConfig) -> None:
        """Keep the response's body if it is to be looked at; that is done when the client has its answer."""
        kept: list[Body] = [(b"", Headers())]
        ctx.on_finish(partial(self._write, ctx, config, kept))  # before the body is read: that may fail, when some of it was seen
        if "response" in config.where and ctx.response is not None:
            kept[0] = None, ctx.response.headers
            kept[0] = _response_body(ctx.response, config)

    @hookimpl
    def worker_stopping(self) -> None:
        """Write what waits."""
        self.sinks.flush()

    def _write(self, ctx: Context, config: PiiLogConfig, kept: list[Body], outcome: Outcome) -> None:
        entry = entry_of(ctx, config, kept[0], outcome)
        if entry is not None:
            self.sinks.write(config, encode(entry))


def entry_of(ctx: Context, config: PiiLogConfig, response: Body, outcome: Outcome) -> dict[str, Any] | None:
    """Return the entry; None if everything was looked at and nothing in it is personal."""
    findings, scanner, request = Findings(), config.scanner, ctx.request
    path = _scan_path(ctx, scanner, findings)
    if "path" not in config.where:
        findings = Findings()
    if "query" in config.where and request.query_string:
        scanner.pairs(findings, "query", request.query.items(multi=True))
    if "request" in config.where and request.body.received:  # what was not read, nobody has seen
        _scan_body(findings, "request", config, (request.body.replayable(config.scan_limit), request.headers))
    _scan_body(findings, "response", config, response)
    if not findings:
        return None
    entry = {
        "timestamp": timestamp(),
        "route": ctx.route.id if ctx.route is not None else None,
        "user_id": ctx.state.get("user_id"),
        "consumer": ctx.consumer.id if ctx.consumer is not None else None,
        "client_ip": request.remote_addr,
        "method": request.method,
        "path": path,
        "request_id": ctx.request_id,
        "status": outcome.status,
        "completed": outcome.completed,
        "fields": findings.fields(scanner.clean),
    }
    if findings.unread:
        entry["unread"] = findings.unread
    if findings.truncated:
        entry["truncated"] = True
    return entry


def _scan_path(ctx: Context, scanner: Scanner, findings: Findings) -> str:
    """Note what is personal in the path, segment by segment, and return the path with it masked."""
    names = {value: name for name, value in ctx.params.items()}
    segments = ctx.request.path.split("/")
    for index, segment in enumerate(segments):
        name = names.get(segment)
        found = Findings()
        scanner.value(found, "path", name or f"segment {index}", unquote(segment), scanner.kind_of(name) if name else None)
        for field in found.fields(str):
            findings.add("path", field["name"], field["kind"], field["masked"])
            segments[index] = field["masked"]
    return "/".join(segments)


def _scan_body(findings: Findings, where: Literal["request", "response"], config: PiiLogConfig, body: Body) -> None:
    data, headers = body
    form = _form(headers)
    if data == b"" or form is None:
        return
    data = _decoded(data, headers.get("Content-Encoding") or "", config.scan_limit)
    try:
        if data is None:
            findings.unread.append(where)
        elif form == "json":
            config.scanner.json(findings, where, orjson.loads(data))
        else:
            config.scanner.pairs(findings, where, parse_qsl(data.decode("utf-8", "replace"), keep_blank_values=True))
    except orjson.JSONDecodeError:
        findings.unread.append(where)


def _form(headers: Headers) -> Form | None:
    form = form_of(headers.get("Content-Type"))
    return None if form == "text" else form


def _decoded(data: bytes | None, coding: str, limit: int) -> bytes | None:
    """Return a body without its coding; None if it is not here, longer than ``limit``, or in a coding unknown here."""
    if data is None or len(data) > limit:
        return None
    coding = coding.lower()
    if coding in ("", "identity"):
        return data
    if coding not in ("gzip", "x-gzip", "deflate"):
        return None
    decompress = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
    try:
        decoded = decompress.decompress(data, limit)  # never more than that, whatever it would become
    except zlib.error:
        return None
    return decoded if decompress.eof and not decompress.unused_data else None


def _response_body(response: Response, config: PiiLogConfig) -> Body:
    if _form(response.headers) != "json":
        return b"", Headers()
    known = response.body.length
    return None if known is not None and known > config.scan_limit else response.get_data(), response.headers


def _most(ctx: Context, config: PiiLogConfig) -> int:
    return config.scan_limit if ctx.route is None else min(config.scan_limit, ctx.route.max_buffer)
