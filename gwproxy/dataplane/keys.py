"""What requests are told apart by: a header field, a cookie, a client. Compiled when a configuration is applied."""

from __future__ import annotations

import re
from collections.abc import Callable

from gwproxy.messages import Request

#: Gives the value of a request; None: it has none.
Reader = Callable[[Request], str | None]


def header(name: str) -> Reader:
    """Return what reads the first value of a header field."""
    key = name.lower()
    return lambda request: request.headers.first(key)


def cookie(name: str) -> Reader:
    """Return what reads the first cookie of that name, as :attr:`gwproxy.messages.Request.cookies` has it.

    PERF: 0.5 us, where parsing all cookies takes 5 and more.
    """
    begins = f"{name}="
    pattern = re.compile(rf"(?:\A|;)[ \t]*{re.escape(name)}(?:[ \t]*=[ \t]*([^ \t;]*))?[ \t]*(?:;|\Z)")

    def read(request: Request) -> str | None:
        sent = request.headers.first("cookie")
        if sent is None:
            return None
        at = sent.find(name)
        if at < 0:
            return None
        if sent.startswith(begins, at) and (at == 0 or sent[at - 2 : at] == "; ") and '"' not in sent:  # as browsers send it
            value = sent[at + len(begins) :].partition(";")[0]
            if " " not in value and "\t" not in value and value.isascii():
                return value
        if '"' in sent or not sent.isascii():  # a semicolon may be part of a value, characters are bytes of UTF-8
            return request.cookies.get(name)
        found = pattern.search(sent)
        return None if found is None else found[1] or ""

    return read
