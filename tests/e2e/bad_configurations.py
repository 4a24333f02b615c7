"""Configurations that must be refused as a whole, by row: what is published, and where and how the problem is told.

``routes[0]`` is always the route that is served already; what is wrong stands in ``routes[1]``, or elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.e2e.signers import pem

UPSTREAM = "http://127.0.0.1:9"
GOOD: dict[str, Any] = {"id": "good", "path": "/good", "upstream": UPSTREAM}


@dataclass(frozen=True, slots=True)
class Bad:
    """One of them.

    :ivar data: as it is published.
    :ivar path: of the problem that is told first.
    :ivar said: a part of its text.
    :ivar plugin: whether it needs the plugin ``picky`` of awkward.py.
    """

    data: bytes
    path: str
    said: str
    plugin: bool = False


def text(*routes: dict[str, Any], **more: Any) -> bytes:
    """Return a document whose every value has a line of its own."""
    return json.dumps({"routes": [GOOD, *routes], **more}, indent=1).encode()


def route(path: str, said: str, /, **keys: Any) -> Bad:
    """Return a document with a bad route, whose problem is at ``path`` below it."""
    return Bad(text({"path": "/bad", "upstream": UPSTREAM, **keys}), f"routes[1]{path and '.'}{path}", said)


def entry(path: str, said: str, name: str, /, **config: Any) -> Bad:
    """Return a document with a bad plugin configuration, whose problem is at ``path`` below it."""
    made = route("", said, plugins=[{"name": name, "config": config}])
    return Bad(made.data, f"routes[1].plugins[0].config{path and '.'}{path}", said, plugin=name == "picky")


def target(url: str, said: str) -> Bad:
    return route("upstream", said, upstream=url)


CREDENTIALS, PORT, METADATA, NUMBERS = "without credentials", "1 to 65535", "cloud's metadata service", "four decimal numbers"
SCHEME, SECONDS = "http:// or https://", "a number above 0"
SECRET = "a-secret-of-more-than-32-bytes-for-tests"

BAD: dict[str, Bad] = {
    "G01-key": route("metods", "did you mean 'methods'?", metods=["GET"]),
    "G01-key-of-a-plugin": entry("limt", "did you mean 'limit'?", "rate_limit", limt=1),
    "G01-key-at-the-top": Bad(text(upstream={}), "upstream", "did you mean 'upstreams'?"),
    "G02-priority": route("priority", "a whole number", priority="1"),
    "G02-methods": route("methods", "a list", methods="GET"),
    "G02-limit": entry("limit", "a whole number", "rate_limit", limit="100"),
    "G02-document": Bad(b'"routes"', "", "an array of routes"),
    "G03-plugin": route("plugins[0].name", "did you mean 'rate_limit'?", plugins=[{"name": "rate_limits"}]),
    "G04-id": route("id", "another id than that of routes[0]", id="good"),
    "G05-match": Bad(text({**GOOD, "id": "twin"}), "routes[1]", "another path, host"),
    "G06-regex": route("path", "RE2", path="~("),
    "G06-regex-of-a-plugin": entry("custom_patterns", "RE2", "pii_log", custom_patterns={"x": "("}),
    "G07-backreference": route("path", "RE2", path=r"~^/(a)\1"),
    "G07-lookahead": route("path", "RE2", path="~^/(?=a)"),
    "G08-userinfo": target("http://user:hunter2@10.0.0.5", CREDENTIALS),
    "G08-query": target("http://10.0.0.5/?a=b", "without a query"),
    "G08-fragment": target("http://10.0.0.5/#a", "without a fragment"),
    "G09-file": target("file:///etc/passwd", SCHEME),
    "G09-unix": target("unix:///run/app.sock", SCHEME),
    "G09-gopher": target("gopher://10.0.0.5", SCHEME),
    "G10-0": target("http://10.0.0.5:0", PORT),
    "G10-99999": target("http://10.0.0.5:99999", PORT),
    "G11-metadata": target("http://169.254.169.254/latest", METADATA),
    "G11-link-local": target("http://[fe80::1]", METADATA),
    "G11-mapped": target("http://[::ffff:169.254.169.254]", METADATA),
    "G11-by-name": target("http://metadata.google.internal", METADATA),
    "G11-one-number": target("http://2852039166", NUMBERS),
    "G11-of-an-upstream": Bad(
        text(upstreams={"x": {"targets": [{"url": "http://169.254.169.254"}]}}), "upstreams.x.targets[0].url", METADATA
    ),
    "G11-keys": entry(
        "jwks_url", "no link-local or metadata address", "jwt_auth", jwks_url="http://169.254.169.254/", algorithms=["RS256"]
    ),
    "G13-0": route("timeout", SECONDS, timeout=0),
    "G13-negative": route("timeout.read", SECONDS, timeout={"read": -1}),
    "G13-NaN": Bad(text({**GOOD, "path": "/b", "timeout": float("nan")}), "routes[1].timeout", "NaN"),
    "G13-1e9": route("timeout", "at most", timeout=1e9),
    "G15-bytes": Bad(text({**GOOD, "path": "/b", "id": "x" * (10 << 20)}), "", "at most 10485760 bytes"),
    "G15-routes": Bad(b'{"routes": [' + b",\n".join([b"0"] * 100_001) + b"]}", "routes", "100001 routes"),
    "G15-depth": Bad(b'{"routes": ' + b"[" * 5000, "routes" + "[0]" * 63, "nested too deep"),
    "G16-utf8": Bad(text().replace(b"/good", b"/go\xffd"), "", "0xff"),
    "G16-utf16": Bad(text().decode().encode("utf-16"), "", "UTF-8"),
    "G16-NaN": Bad(text({**GOOD, "path": "/b", "priority": float("nan")}), "routes[1].priority", "NaN"),
    "G16-key-twice": Bad(text().replace(b'"path"', b'"path": "/other", "path"'), "routes[0].path", "given twice"),
    "G19-truncated": Bad(text()[:-10], "routes[0].upstream", "a string that is not closed"),
    "G21-unset": route("upstream", "GW_UNSET", upstream="${GW_UNSET}"),
    "G21-unset-secret": entry("secret", "GW_UNSET", "jwt_auth", secret="${GW_UNSET}"),
    "G21-not-allowed": route("upstream", "GWPROXY_ENV_ALLOW", upstream="${HOME}"),
    "G22-of-a-plugin": entry("add_headers.X", "without line breaks", "request_transform", add_headers={"X": "a\r\nX-Admin: 1"}),
    "G22-condition": route("headers.x", "a header field", headers={"x": "a\r\nb: c"}),
    "G23-path": route("path", "a parameter", path="/a/{0.__class__}"),
    "G23-rewrite": entry("rewrite_path", "names alone in braces", "request_transform", rewrite_path="/{id.__class__}"),
    "G23-rewrite-of-what-is-not-there": entry("", "its path has no parameter; not {id}", "request_transform", rewrite_path="/v2/{id}"),
    "G24-mixed": entry("", "one family", "jwt_auth", secret=SECRET, algorithms=["HS256", "RS256"]),
    "G24-public-key-as-secret": entry("secret", "no public key", "jwt_auth", secret=pem("RS256")),
    "G24-HS-with-public-key": entry("public_key", "not HS", "jwt_auth", public_key=pem("RS256"), algorithms=["HS256"]),
    "G24-HS-with-published-keys": entry("", "never HS keys", "jwt_auth", jwks_url="https://id.example.com/keys", algorithms=["HS256"]),
    "C03-G25-origins": entry("", "no '*' in origins", "cors", origins=["*"], allow_credentials=True),
    "C03-G25-default-origins": entry("", "no '*' in origins", "cors", allow_credentials=True),
    "J20-G26-short": entry("secret", "at least 32 bytes", "jwt_auth", secret="too short a secret"),
    "J20-G26-empty": entry("secret", "at least 32 bytes", "jwt_auth", secret=""),
    "W10-G26-short": entry("secrets[0]", "at least 16 bytes", "webhook_signature", scheme="github", secrets=["short"]),
    "W10-G26-empty": entry("secrets[0]", "at least 16 bytes", "webhook_signature", scheme="stripe", secrets=[""]),
    "W10-G26-none": entry("secrets", "at least 1", "webhook_signature", scheme="slack", secrets=[]),
    "W10-G26-standard": entry("secrets[0]", "base64 of 24 to 64 bytes", "webhook_signature", scheme="standard", secrets=["whsec_AAAA"]),
    "G27-raises": entry("", "'picky' raised RuntimeError", "picky", mood="raise"),
    "G27-raises-at-once": entry("", "'picky' raised Stop", "picky", mood="stop"),
    "G27-exits": entry("", "'picky' raised SystemExit", "picky", mood="exit"),
    "G27-slow": entry("", "by plugin 'picky'", "picky", mood="slow"),
    "G28-one-of-1000": Bad(
        text(*({"path": f"/r{n}", "upstream": UPSTREAM, **({"methods": ["get"]} if n == 500 else {})} for n in range(1, 1000))),
        "routes[500].methods[0]",
        "upper case",
    ),
}
