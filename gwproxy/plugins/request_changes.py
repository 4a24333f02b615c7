"""What is changed of a request: the part of :mod:`gwproxy.plugins.request_transform` that every request passes.

It stands beside the plugin, whose hook calls it, and is compiled where gwproxy is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gwproxy import Context, Headers

NOT_A_STEP = re.compile(r"//|/\.\.?(?:/|$)")


class Changes:
    """Sets and removes header fields, and replaces the path.

    :param added: fields to set, by name.
    :param removed: names.
    :param path: a template of the whole path, checked; None: it stays.
    """

    def __init__(self, added: Mapping[str, str], removed: Sequence[str], path: str | None) -> None:
        self._added = Headers(added.items())
        self._removed = list(removed)
        self._path = path

    def apply(self, ctx: Context) -> None:
        """Change what goes upstream.

        :raises KeyError: the template names a group of the route's regex that had no part in the match.
        """
        headers = ctx.request.headers
        for name in self._removed:
            headers.remove(name)
        headers.update(self._added)
        if self._path is not None:
            _rewrite(ctx, self._path)


def _rewrite(ctx: Context, template: str) -> None:
    upstream = ctx.upstream
    if upstream is None:
        raise LookupError("a request without an upstream has no path to rewrite")
    # Checked when it was configured: nothing but plain {name} can stand in it.
    path = template.format_map(ctx.params)
    if NOT_A_STEP.search(path):  # parameters beside each other, such as `.` and `.`, can make what none of them is
        ctx.abort(400, {"error": "Bad Request"})
    url = upstream.url
    start = url.index("/", url.index("://") + 3)
    _, mark, query = url.partition("?")
    upstream.url = url[:start] + path + mark + query
