"""Answer CORS: which pages of other origins may call a route from a browser, and read what it answers.

Preflights are answered here with 204 and never forwarded. CORS headers of the upstream are replaced; refusals of the
gateway itself (401, 404, 429, 502) carry the grant too, so that a page can read why it was refused.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from gwproxy import Context, Plugin, PluginConfig, hookimpl
from gwproxy.plugins.cors_grants import ANY, Grants

_NULL = "null"
# scheme://host[:port] as RFC 6454 section 6.2 writes it: lower case, no path; `*.` before a name: any depth below it.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.\-]*://(?:\*\.)?(?:[a-z0-9_\-]+(?:\.[a-z0-9_\-]+)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORTS = (("http://", ":80"), ("https://", ":443"))


def _check_origin(origin: str) -> str:
    if origin in (ANY, _NULL):
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

    origins: tuple[Annotated[str, Field(max_length=512), AfterValidator(_check_origin)], ...] = (ANY,)
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
                if ANY in getattr(self, name):
                    raise ValueError(f"no '*' in {name} together with allow_credentials: list what is allowed")
        return self

    @cached_property
    def grants(self) -> Grants:
        """What follows from all of it."""
        return Grants(
            self.origins, self.methods, self.headers, self.expose_headers, credentials=self.allow_credentials, max_age=self.max_age
        )


class Cors(Plugin):
    """Grant other origins access, preflights included; what the upstream says about it is replaced."""

    name = "cors"
    version = "1.0"
    priority = 100
    config_model = CorsConfig

    @hookimpl
    def pre_auth(self, ctx: Context, config: CorsConfig) -> None:
        """Decide on the origin, so that every refusal from here on carries the grant; answer a preflight."""
        config.grants.decide(ctx)

    @hookimpl
    def response(self, ctx: Context, config: CorsConfig) -> None:
        """Replace what the upstream says, in whatever leaves."""
        config.grants.tell(ctx)
