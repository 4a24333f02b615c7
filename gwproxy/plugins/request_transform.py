"""Change a request before it is forwarded: set headers, remove headers, replace the path.

Only what is sent upstream changes: the route was matched, and the request is logged, by the path the client asked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from gwproxy import Context, Plugin, PluginConfig, Route, hookimpl
from gwproxy.plugins.request_changes import NOT_A_STEP, Changes

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")  # RFC 9110 section 5.6.2: token
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 section 5.5
# What the gateway itself decides on: framing, the connection (RFC 9110 section 7.6.1), and who is calling.
_OWN = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-consumer",
        "x-consumer-groups",
        "x-user-id",
    }
)

_PARAM = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
# The canonical path: what RFC 3986 allows in a segment, and escapes of what it does not.
_CANONICAL = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a header name")
    if name.lower() in _OWN:
        raise ValueError("a header that the gateway does not set itself")
    return name


def _check_value(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ValueError("a value without line breaks, other control characters, and characters outside latin-1")
    return value


def _check_path(template: str) -> str:
    path = _PARAM.sub("x", template)
    if "{" in path or "}" in path:
        raise ValueError("names alone in braces, such as {id}: letters, digits and underscores")
    if not _CANONICAL.fullmatch(path):
        raise ValueError("a path that starts with '/', without query, fragment, space and backslash; other characters as %XX")
    if NOT_A_STEP.search(path):
        raise ValueError("a path without empty segments, '.' and '..'")
    for match in _ESCAPE.finditer(path):
        byte = int(match[1], 16)
        if byte in _UNRESERVED:
            raise ValueError(f"{chr(byte)!r} itself in place of {match[0]}")
        if byte < 0x20 or byte in (0x5C, 0x7F):
            raise ValueError(f"no control character or backslash, such as {match[0]}")
    return template


HeaderName = Annotated[str, Field(max_length=256), AfterValidator(_check_name)]
HeaderValue = Annotated[str, Field(max_length=8190), AfterValidator(_check_value)]


class RequestTransformConfig(PluginConfig):
    """What is changed."""

    add_headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, max_length=100)
    """Header fields to set, by name; each replaces what the client sent under that name."""
    remove_headers: tuple[HeaderName, ...] = Field(default=(), max_length=100)
    """Names of header fields to remove, in any case."""
    rewrite_path: Annotated[str, Field(max_length=2048), AfterValidator(_check_path)] | None = None
    """The whole path to ask the upstream for; `{name}` stands for a parameter of the route's template. The query stays. None: unchanged."""

    @field_validator("add_headers")
    @classmethod
    def _once(cls, fields: dict[str, str]) -> dict[str, str]:
        names = [name.lower() for name in fields]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"each header once, not {name} in two spellings")
        return fields

    @model_validator(mode="after")
    def _set_or_removed(self) -> RequestTransformConfig:
        both = {name.lower() for name in self.add_headers} & {name.lower() for name in self.remove_headers}
        if both:
            raise ValueError(f"{', '.join(sorted(both))} in add_headers or in remove_headers, not in both: adding replaces by itself")
        return self

    def check_route(self, route: Route, params: Collection[str]) -> None:
        """Refuse a path with a parameter that the route does not have."""
        if self.rewrite_path is not None:
            missing = [name for name in _PARAM.findall(self.rewrite_path) if name not in params]
            if missing:
                known = f"one of {', '.join(sorted(params))}" if params else "none, for its path has no parameter"
                raise ValueError(f"in rewrite_path, {known}; not {{{missing[0]}}}")

    @cached_property
    def changes(self) -> Changes:
        """What follows from all of it."""
        return Changes(self.add_headers, self.remove_headers, self.rewrite_path)


class RequestTransform(Plugin):
    """Set and remove request headers, and replace the path, just before the request is forwarded."""

    name = "request_transform"
    version = "1.0"
    priority = 400
    config_model = RequestTransformConfig

    @hookimpl
    def pre_proxy(self, ctx: Context, config: RequestTransformConfig) -> None:
        """Change what goes upstream.

        :raises KeyError: ``rewrite_path`` names a group of the route's regex that had no part in the match (the client gets 500).
        """
        config.changes.apply(ctx)
