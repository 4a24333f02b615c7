"""The obvious gateway: what one writes on the first day. The baseline of the benchmarks.

``BENCH_REDIS`` set: it also does what five plugins do, in the obvious way.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import jwt
import redis
import requests
from requests.adapters import HTTPAdapter

UPSTREAM = os.environ["BENCH_UPSTREAM"]
SECRET = os.environ["BENCH_SECRET"]
ORIGIN = os.environ["BENCH_ORIGIN"]
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}

session = requests.Session()
session.mount("http://", HTTPAdapter(pool_maxsize=100))
store = redis.Redis.from_url(os.environ["BENCH_REDIS"], max_connections=100) if "BENCH_REDIS" in os.environ else None

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    began = time.perf_counter()
    headers = {name[5:].replace("_", "-").title(): value for name, value in environ.items() if name.startswith("HTTP_")}
    added: list[tuple[str, str]] = []
    if store is not None:
        try:
            user = jwt.decode(headers.get("Authorization", "").removeprefix("Bearer "), SECRET, ["HS256"])["sub"]
        except jwt.InvalidTokenError:
            start_response("401 Unauthorized", [("Content-Length", "0")])
            return []
        if headers.get("Origin") == ORIGIN:
            added.append(("Access-Control-Allow-Origin", ORIGIN))
        count = int(store.incr(f"naive:{user}"))  # type: ignore[arg-type]
        added.append(("X-RateLimit-Remaining", str(1_000_000_000 - count)))
        headers["X-Gateway"] = "naive"
        headers.pop("Cookie", None)
    url = UPSTREAM + environ["PATH_INFO"]
    body = environ["wsgi.input"].read() if environ.get("CONTENT_LENGTH") else None
    kept = {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}
    response = session.request(environ["REQUEST_METHOD"], url, headers=kept, data=body, allow_redirects=False)
    if store is not None:
        entry = {"path": environ["PATH_INFO"], "status": response.status_code, "ms": (time.perf_counter() - began) * 1000}
        store.lpush("naive:log", json.dumps(entry))
        store.ltrim("naive:log", 0, 9999)
    fields = [(name, value) for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP]
    start_response(f"{response.status_code} {response.reason}", fields + added)
    return [response.content]
