"""Redact personal data in JSON responses: by the names of fields, and by what values look like.

A document that holds nothing of the kind passes byte for byte. JSON that cannot be looked at (broken, longer than the route's
`max_buffer`, compressed although nobody asked for that) is refused with 502, unless `unreadable: pass` says otherwise.
"""

import json
from functools import cached_property
from typing import Annotated, Any, Literal

import re2
from gwproxy import Context, Gateway, Plugin, PluginConfig, hookimpl
from pydantic import AfterValidator, Field

LONG = 16 << 10  # bytes of a body, from which on it is read in a thread: the worker serves other requests meanwhile
JSON = re2.compile(r"(?i)\s*application/([\w.-]+\+)?json\s*(;|$)")
QUIET = re2.Options()
QUIET.log_errors = False
FIELDS = ("email", "phone", "ssn", "date_of_birth", "iban", "card_number")
EMAIL = r"[\pL\pN._%+-]+@[\pL\pN-]+(?:\.[\pL\pN-]+)+"
CARD = r"\b[3-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{3,4}\b"


def compiles(pattern: str) -> str:
    """Return ``pattern`` if it is one of RE2."""
    try:
        re2.compile(pattern, QUIET)
    except re2.error:
        raise ValueError(f"{pattern!r} is no RE2 expression") from None
    return pattern


def plain(name: str) -> str:
    """Return a name as names are compared."""
    return name.lower().replace("-", "").replace("_", "")


FieldName = Annotated[str, Field(pattern=r"^[^.]{1,128}(\.[^.]{1,128}){0,7}$"), AfterValidator(plain)]
Pattern = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(compiles)]


class RedactConfig(PluginConfig):
    """What is personal, and what stands in its place."""

    fields: Annotated[frozenset[FieldName], Field(max_length=256, validate_default=True)] = frozenset(FIELDS)
    """What is redacted by its name, at any depth: `id`, or `patient.id` for one right in a `patient`. Case, `-`, `_` do not count."""
    patterns: Annotated[tuple[Pattern, ...], Field(max_length=20)] = (EMAIL, CARD)
    """RE2 expressions: what they match in other values, and in names, is redacted. Default: e-mail addresses, card numbers."""
    replacement: Annotated[str, Field(max_length=64)] = "***"
    """What stands in its place."""
    unreadable: Literal["refuse", "pass"] = "refuse"
    """What becomes of JSON that cannot be looked at: `refuse` (502) or `pass`."""

    @cached_property
    def expression(self) -> Any:
        """All patterns in one; without any, one that matches nothing."""
        return re2.compile("|".join(f"(?:{pattern})" for pattern in self.patterns) or "[^\\s\\S]", QUIET)

    def redacted(self, value: Any, *path: str) -> Any:
        """Return ``value``, which stands below the names of ``path``, without what is personal in it."""
        if any(".".join(path[start:]) in self.fields for start in range(len(path))):
            return self.replacement
        if isinstance(value, dict):
            return {self.text(name): self.redacted(item, *path[-7:], plain(name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self.redacted(item, *path) for item in value]
        if value is None or isinstance(value, bool):
            return value
        return value if (clean := self.text(str(value))) == str(value) else clean

    def text(self, text: str) -> str:
        """Return ``text`` without what a pattern matches."""
        return str(self.expression.sub(lambda _: self.replacement, text))

    def document(self, data: bytes) -> bytes:
        """Return a JSON text without what is personal; ``data`` itself if nothing is. Raises ValueError: it is no JSON."""
        read = json.loads(data, object_pairs_hook=unique)
        clean = self.redacted(read)
        return data if clean == read else json.dumps(clean, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object in which a name stands twice: which of the values its reader takes, nobody knows."""
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name is given twice")
    return found


class Redact(Plugin):
    name = "redact"
    version = "1.0"
    priority = 880  # after the others that change responses: they may add something
    config_model = RedactConfig
    gateway: Gateway

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        self.gateway = gateway

    @hookimpl
    def pre_proxy(self, ctx: Context) -> None:
        """Ask for the whole and not compressed: nothing else can be looked at."""
        ctx.request.headers.remove("Range")
        ctx.request.headers["Accept-Encoding"] = "identity"

    @hookimpl
    def post_proxy(self, ctx: Context, config: RedactConfig) -> None:
        response = ctx.response
        if response is None or ctx.request.method == "HEAD" or not JSON.match(response.headers.get("Content-Type") or ""):
            return
        data = response.get_data() if response.headers.get("Content-Encoding", "identity") == "identity" else None
        try:
            clean = data and (self.gateway.in_thread(config.document, data) if len(data) > LONG else config.document(data))
        except (ValueError, RecursionError):  # no JSON, or nested too deeply
            clean = None
        if clean is None and config.unreadable == "refuse":
            ctx.abort(502, {"error": "Bad Gateway"})
        elif clean and clean is not data:
            response.set_data(clean)
