"""What every error of the gateway's own has to be like."""

from __future__ import annotations

from tests.e2e.raw import Answer, RawClient
from tests.e2e.strangers import SECRET

ORIGIN = "https://app.example.com"
JWT_SECRET = "a-secret-of-more-than-32-bytes-for-tests"
#: On every route: what these set has to be on refusals too.
PLUGINS = [{"name": "cors", "config": {"origins": [ORIGIN]}}, {"name": "stranger_stamp"}]

TEXTS = {
    400: "Bad Request",
    401: "Authentication required",
    403: "Forbidden",
    404: "Route not found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Payload too large",
    414: "URI Too Long",
    417: "Expectation Failed",
    429: "Rate limit exceeded",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def check(answer: Answer, status: int, text: str | None = None, *, by_parser: bool = False, vary: bool = True) -> None:
    """Check a refusal: exact status and text, JSON, plugins' headers, and no word about the inside.

    :param by_parser: it was refused before it could be shown to plugins.
    """
    assert answer.status == status
    assert answer.json() == {"error": text or TEXTS[status]}
    assert answer.get("Content-Type") == "application/json"
    assert answer.all("Content-Length") == [str(len(answer.body))]
    assert not answer.cut
    said = (answer.raw + answer.body).decode("latin-1")
    for inside in ("Traceback", "File ", ".py", "127.0.0.1", "10.0.0.5", "no-such-host", "redis", SECRET, JWT_SECRET, "gunicorn", "Error:"):
        assert inside not in said
    if not by_parser:
        assert answer.all("Access-Control-Allow-Origin") == [ORIGIN]
        assert answer.all("Vary") == (["Origin"] if vary else [])
        assert answer.get("X-Stamp") == str(status)
        assert answer.get("X-Request-ID")


def ask(client: RawClient, target: str, *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
    return client.ask(target, f"Origin: {ORIGIN}", *fields, method=method, body=body)
