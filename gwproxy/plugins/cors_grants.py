"""What pages of other origins are granted: the rules of :mod:`gwproxy.plugins.cors`, prepared once for a configuration.

This is what every request passes, so it stands beside the plugin, whose hooks call it, and is compiled where gwproxy is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gwproxy import Context, Headers

ANY = "*"
_ALLOW_ORIGIN = "Access-Control-Allow-Origin"
_EXPOSE = "Access-Control-Expose-Headers"
_ASKED_METHOD = "Access-Control-Request-Method"
_BELOW = r"(?:[a-z0-9_\-]+\.)+"
# One visible word: a second origin, joined or repeated, is no origin (C09).
_ONE_WORD = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
#: What an upstream may say of it, and ``Vary``, in lower case.
_REPLACED = frozenset(
    {
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "access-control-allow-methods",
        "access-control-allow-headers",
        "access-control-expose-headers",
        "access-control-max-age",
        "access-control-allow-private-network",
        "vary",
    }
)
(_VARY,) = Headers([("Vary", "Origin")]).fields()


class Grants:
    """Decides on the origin of each request, and says so in each response.

    :param origins: as configured: exact ones, those that begin with ``*.`` after their scheme, ``*``.
    :param exposed: response headers that a page may read.
    :param credentials: whether requests may carry them.
    :param max_age: seconds a browser may keep the answer to a preflight; None: its own default.
    """

    def __init__(
        self,
        origins: Sequence[str],
        methods: Sequence[str],
        headers: Sequence[str],
        exposed: Sequence[str],
        *,
        credentials: bool,
        max_age: int | None,
    ) -> None:
        self._every = ANY in origins  # then the answer does not vary by origin
        self._exposed = ", ".join(exposed)
        self._credentials = credentials
        self._methods = frozenset(methods) | (frozenset({"HEAD"}) if "GET" in methods else frozenset())
        self._headers = frozenset(name.lower() for name in headers)
        told = [("Access-Control-Allow-Methods", ", ".join(methods)), ("Access-Control-Allow-Headers", ", ".join(headers))]
        if max_age is not None:
            told.append(("Access-Control-Max-Age", str(max_age)))
        self._preflight = [(name, value) for name, value in told if value]
        self._to_every = self._grant(ANY)
        self._exact = {origin: self._grant(origin) for origin in origins if "*" not in origin}
        parts = [re.escape(origin).replace(r"\*\.", _BELOW) for origin in origins if "*." in origin]
        self._pattern = re.compile("|".join(parts)) if parts else None

    def decide(self, ctx: Context) -> None:
        """Note what the origin is granted; refuse one that is none, and answer a preflight."""
        request = ctx.request
        headers = request.headers
        origin = _origin(headers)
        if origin == "":
            ctx.abort(400, {"error": "Bad Request"})
        if request.method != "OPTIONS" or origin is None or _ASKED_METHOD not in headers:
            self._note(ctx, origin)
            return
        granted = self._granted(origin) if self._may_be_sent(headers) else None
        ctx.state["cors"] = None if granted is None else granted[_ALLOW_ORIGIN]
        if granted is not None:
            for name, value in (*granted.items(), *self._preflight):
                if name != _EXPOSE:
                    ctx.response_headers[name] = value
        ctx.abort(204, None)

    def tell(self, ctx: Context) -> None:
        """Replace what the upstream says; add to ``Vary`` without losing the upstream's."""
        response = ctx.response
        if response is None:
            return
        if "cors" not in ctx.state:  # nothing was decided: no route matched, or an earlier plugin ended the request
            self._note(ctx, _origin(ctx.request.headers))
        leaving, ours = response.headers, ctx.response_headers
        varies = False
        for key, _, _, _ in leaving.among(_REPLACED):
            if key == "vary":
                varies = True
            elif key not in ours:  # those of ours replace the upstream's by themselves
                leaving.remove(key)
        if self._every:
            return
        if varies:
            _vary_by_origin(leaving)
        else:
            leaving.append(_VARY)
        if ours.getlist("Vary"):  # it would replace what was merged
            _vary_by_origin(ours)

    def _note(self, ctx: Context, origin: str | None) -> None:
        """Note what ``origin`` is granted; nothing if it is not allowed."""
        granted = self._granted(origin)
        if granted is None:
            ctx.state["cors"] = None
        else:
            ctx.state["cors"] = granted[_ALLOW_ORIGIN]
            ctx.response_headers.update(granted)

    def _granted(self, origin: str | None) -> Headers | None:
        """Return what the origin is granted; None if nothing."""
        if self._every:
            return self._to_every
        if origin is None:
            return None
        granted = self._exact.get(origin)
        if granted is None and self._pattern is not None and self._pattern.fullmatch(origin):
            return self._grant(origin)
        return granted

    def _grant(self, allowed: str) -> Headers:
        """Make what a page of an allowed origin is told by an answer that is none to a preflight."""
        told = Headers([(_ALLOW_ORIGIN, allowed)])
        if self._credentials:
            told["Access-Control-Allow-Credentials"] = "true"
        if self._exposed:
            told[_EXPOSE] = self._exposed
        return told

    def _may_be_sent(self, headers: Headers) -> bool:
        """Whether method and headers that a preflight asks for are all granted."""
        if ANY not in self._methods and headers[_ASKED_METHOD] not in self._methods:
            return False
        if ANY in self._headers:
            return True
        asked = ",".join(headers.getlist("Access-Control-Request-Headers"))
        names = [part.strip().lower() for part in asked.split(",")]
        return self._headers.issuperset([name for name in names if name])


def _origin(headers: Headers) -> str | None:
    """Return who asks; None if the request does not say, empty if what it says is no single origin."""
    origins = headers.getlist("Origin")
    if not origins:
        return None
    return origins[0] if len(origins) == 1 and _ONE_WORD.fullmatch(origins[0]) else ""


def _vary_by_origin(headers: Headers) -> None:
    names = ", ".join(headers.getlist("Vary"))
    if not names:
        headers["Vary"] = "Origin"
    elif not {"*", "origin"} & {name.strip().lower() for name in names.split(",")}:
        headers["Vary"] = f"{names}, Origin"
