"""Answer CORS: which pages of other origins may call a route from a browser, and read what it answers.

Preflights are answered here with 204 and never forwarded. CORS headers of the upstream are replaced; refusals of the
gateway itself (401, 404, 429, 502) carry the grant too, so that a page can read why it was refused.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from gwproxy import Context, Headers, Plugin, PluginConfig, hookimpl

_ANY = "*"
_NULL = "null"
# scheme://host[:port] as RFC 6454 section 6.2 writes it: lower case, no path; `*.` before a name: any depth below it.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.\-]*://(?:\*\.)?(?:[a-z0-9_\-]+(?:\.[a-z0-9_\-]+)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORTS = (("http://", ":80"), ("https://", ":443"))
_BELOW = r"(?:[a-z0-9_\-]+\.)+"
# One visible word: a second origin, joined or repeated, is no origin (C09).
_ONE_WORD = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
_GRANTS = (
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Credentials",
    "Access-Control-Allow-Methods",
    "Access-Control-Allow-Headers",
    "Access-Control-Expose-Headers",
    "Access-Control-Max-Age",
    "Access-Control-Allow-Private-Network",
)
_GRANT_KEYS = frozenset(name.lower() for name in _GRANTS)
_VARY = Headers([("Vary", "Origin")])


def _check_origin(origin: str) -> str:
    if origin in (_ANY, _NULL):
        return origin
    if not _ORIGIN.fullmatch(origin):
        raise ValueError("scheme://host[:port] in lower case, without a path, or '*', or 'null'")
    if any(origin.startswith(scheme) and origin.endswith(port) for scheme, port in _DEFAULT_PORTS):
        raise ValueError("no port where it is the scheme's own: browsers leave it out")
    return origin


def _check_case(method: str) -> str:
    if method != method.upper():
        raise ValueError(f"{method.upper()!r}: methods are case-sensitive")
    return method


Token = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]


class CorsConfig(PluginConfig):
    """Which origins may do what."""

    origins: tuple[Annotated[str, Field(max_length=512), AfterValidator(_check_origin)], ...] = (_ANY,)
    """Origins that may call: `scheme://host[:port]` in lower case, `https://*.example.com` (every name below), `null`, or `*` (all)."""
    methods: tuple[Annotated[Token, AfterValidator(_check_case)], ...] = ("GET", "POST", "PUT", "DELETE")
    """Methods that a preflight grants, in upper case; `GET` includes `HEAD`. `*`: all."""
    headers: tuple[Token, ...] = ("Content-Type", "Authorization")
    """Request headers that a preflight grants. `*`: all but `Authorization`, which browsers want named."""
    expose_headers: tuple[Token, ...] = ()
    """Response headers that a page may read beside the safelisted ones. `*`: all."""
    allow_credentials: bool = False
    """Whether requests may carry cookies or other credentials; not together with any `*`."""
    max_age: int | None = Field(default=None, ge=0, le=86_400)
    """Seconds a browser may keep the answer to a preflight. None: the browser's own default (5)."""

    @model_validator(mode="after")
    def _no_wildcard_with_credentials(self) -> CorsConfig:
        if self.allow_credentials:
            for name in ("origins", "methods", "headers", "expose_headers"):
                if _ANY in getattr(self, name):
                    raise ValueError(f"no '*' in {name} together with allow_credentials: list what is allowed")
        return self

    @cached_property
    def any_origin(self) -> bool:
        """Whether every origin is granted; then the answer does not vary by origin."""
        return _ANY in self.origins

    @cached_property
    def exact_origins(self) -> dict[str, Headers]:
        """The origins that are compared as a whole, and what each is granted."""
        return {origin: self.grant(origin) for origin in self.origins if "*" not in origin}

    @cached_property
    def origin_pattern(self) -> re.Pattern[str] | None:
        """Matches the origins given with ``*.``; None if there are none."""
        parts = [re.escape(origin).replace(r"\*\.", _BELOW) for origin in self.origins if "*." in origin]
        return re.compile("|".join(parts)) if parts else None

    @cached_property
    def granted_methods(self) -> frozenset[str]:
        """The methods a preflight may ask for."""
        return frozenset(self.methods) | ({"HEAD"} if "GET" in self.methods else set())

    @cached_property
    def granted_headers(self) -> frozenset[str]:
        """The header names a preflight may ask for, in lower case."""
        return frozenset(name.lower() for name in self.headers)

    @cached_property
    def preflight_headers(self) -> tuple[tuple[str, str], ...]:
        """What a granted preflight is told beside its origin."""
        told = [("Access-Control-Allow-Methods", ", ".join(self.methods)), ("Access-Control-Allow-Headers", ", ".join(self.headers))]
        if self.max_age is not None:
            told.append(("Access-Control-Max-Age", str(self.max_age)))
        return tuple((name, value) for name, value in told if value)

    @cached_property
    def to_anyone(self) -> Headers:
        """What every origin is granted, where every origin is."""
        return self.grant(_ANY)

    def grant(self, allowed: str) -> Headers:
        """Make what a page of an allowed origin is told by an answer that is none to a preflight."""
        told = Headers([("Access-Control-Allow-Origin", allowed)])
        if self.allow_credentials:
            told["Access-Control-Allow-Credentials"] = "true"
        if self.expose_headers:
            told["Access-Control-Expose-Headers"] = ", ".join(self.expose_headers)
        return told


class Cors(Plugin):
    """Grant other origins access, preflights included; what the upstream says about it is replaced."""

    name = "cors"
    version = "1.0"
    priority = 100
    config_model = CorsConfig

    @hookimpl
    def pre_auth(self, ctx: Context, config: CorsConfig) -> None:
        """Decide on the origin, so that every refusal from here on carries the grant; answer a preflight."""
        headers = ctx.request.headers
        origin = _origin(headers)
        if origin == "":
            ctx.abort(400, {"error": "Bad Request"})
        preflight = ctx.request.method == "OPTIONS" and origin is not None and "Access-Control-Request-Method" in headers
        if preflight and not _may_be_sent(headers, config):
            ctx.state["cors"] = None
        else:
            _grant(ctx, config, origin, preflight=preflight)
        if preflight:
            ctx.abort(204, None)

    @hookimpl
    def response(self, ctx: Context, config: CorsConfig) -> None:
        """Replace what the upstream says; add to ``Vary`` without losing the upstream's."""
        if ctx.response is None:
            return
        if "cors" not in ctx.state:  # no pre_auth ran: no route matched, or an earlier plugin ended the request
            _grant(ctx, config, _origin(ctx.request.headers))
        leaving, ours = ctx.response.headers, ctx.response_headers
        keys = [field[0] for field in leaving.fields()]  # PERF: 0.3 µs, against 2 for asking by each name
        if not _GRANT_KEYS.isdisjoint(keys):
            for name in _GRANTS:
                if name not in ours:  # those of ours replace the upstream's by themselves
                    leaving.remove(name)
        if not config.any_origin:
            if "vary" in keys:
                _vary_by_origin(leaving)
            else:
                leaving.update(_VARY)
            if "Vary" in ours:  # it would replace what was merged
                _vary_by_origin(ours)


def _origin(headers: Headers) -> str | None:
    """Return who asks; None if the request does not say, empty if what it says is no single origin."""
    origins = headers.getlist("Origin")
    if not origins:
        return None
    return origins[0] if len(origins) == 1 and _ONE_WORD.fullmatch(origins[0]) else ""


def _grant(ctx: Context, config: CorsConfig, origin: str | None, *, preflight: bool = False) -> None:
    """Note what ``origin`` is granted; nothing if it is not allowed."""
    granted = _granted(config, origin)
    if granted is None:
        ctx.state["cors"] = None
        return
    ctx.state["cors"] = granted["Access-Control-Allow-Origin"]
    if not preflight:
        ctx.response_headers.update(granted)
        return
    for name, value in (*granted.items(), *config.preflight_headers):
        if name != "Access-Control-Expose-Headers":
            ctx.response_headers[name] = value


def _granted(config: CorsConfig, origin: str | None) -> Headers | None:
    """Return what the origin is granted; None if nothing."""
    if config.any_origin:
        return config.to_anyone
    if origin is None:
        return None
    granted = config.exact_origins.get(origin)
    if granted is not None:
        return granted
    pattern = config.origin_pattern
    return config.grant(origin) if pattern is not None and pattern.fullmatch(origin) else None


def _may_be_sent(headers: Headers, config: CorsConfig) -> bool:
    """Whether method and headers that a preflight asks for are all granted."""
    if _ANY not in config.granted_methods and headers["Access-Control-Request-Method"] not in config.granted_methods:
        return False
    if _ANY in config.granted_headers:
        return True
    asked = ",".join(headers.getlist("Access-Control-Request-Headers"))
    return all(name in config.granted_headers for part in asked.split(",") if (name := part.strip().lower()))


def _vary_by_origin(headers: Headers) -> None:
    names = ", ".join(headers.getlist("Vary"))
    if not names:
        headers["Vary"] = "Origin"
    elif not {"*", "origin"} & {name.strip().lower() for name in names.split(",")}:
        headers["Vary"] = f"{names}, Origin"
