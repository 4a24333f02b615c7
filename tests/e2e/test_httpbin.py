"""A service that nobody here wrote answers through the gateway as it does directly, but for what a proxy adds."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.conftest import GatewayProcess, Process, RedisServer, publish, until
from tests.ports import free_port

pytestmark = pytest.mark.e2e

VENV = Path(__file__).parents[2] / ".venv-httpbin"
#: What the gateway adds to a request, as httpbin spells it; it hides most of these itself unless asked.
ADDED = {"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-Ip", "X-Request-Id", "Forwarded", "Via"}


@pytest.fixture(scope="session")
def httpbin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of httpbin, in a virtual environment of its own: it wants a greenlet that gevent does not."""
    complete = VENV / "complete"
    if not complete.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)], check=True, timeout=100)
        install = ["install", "--quiet", "--no-compile", "httpbin", "gunicorn"]  # by this environment's pip: its own takes seconds to make
        subprocess.run([sys.executable, "-m", "pip", "--python", str(VENV / "bin" / "python"), *install], check=True, timeout=300)
        complete.touch()
    port = free_port()
    command = [str(VENV / "bin" / "gunicorn"), "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--threads", "8", "httpbin:app"]
    folder = tmp_path_factory.mktemp("httpbin")  # where no gunicorn.conf.py is
    process = Process([*command, "--no-control-socket"], folder / "httpbin.log", cwd=folder)
    url = f"http://127.0.0.1:{port}"
    until(lambda: process.child.poll() is not None or requests.get(f"{url}/status/200", timeout=5).ok, "httpbin")
    assert process.child.poll() is None, process.output()
    yield url
    process.stop()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, httpbin: str) -> GatewayProcess:
    publish(redis_server, [{"path": "/", "upstream": httpbin}, {"path": "/absolute-redirect", "upstream": httpbin, "preserve_host": True}])
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url).ready()


@pytest.fixture
def ask(gateway: GatewayProcess, httpbin: str) -> Callable[..., tuple[requests.Response, requests.Response]]:
    """Send one request directly and one through the gateway; return both answers, their bodies as they came."""

    def both(method: str, path: str, **kwargs: Any) -> tuple[requests.Response, requests.Response]:
        answers = []
        for base in (httpbin, gateway.url):
            with requests.Session() as session:
                session.trust_env = False
                answer = session.request(method, base + path, timeout=20, allow_redirects=False, stream=True, **kwargs)
                answer._content = answer.raw.read(decode_content=False)
                answers.append(answer)
        return answers[0], answers[1]

    return both


def head_of(answer: requests.Response) -> tuple[int, list[tuple[str, str]]]:
    """Status and fields, in order and repeated, without framing, hop-by-hop fields and what differs each time.

    The reason phrase is the gateway's own: it means nothing (RFC 9112 section 4).
    """
    own = ("date", "connection", "x-request-id", "content-length", "transfer-encoding")
    return answer.status_code, [(name, value) for name, value in answer.raw.headers.items() if name.lower() not in own]


def plain(said: Any) -> Any:
    """What httpbin says that it saw, without what the gateway adds, and what is for the next hop only."""
    hop = {"Connection": "keep-alive", "Content-Length": "0"}
    said["headers"] = {name: value for name, value in said["headers"].items() if name not in ADDED and hop.get(name) != value}
    return said


# ---- bodies that tell nothing of the request


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/status/418", {}),
        ("GET", "/status/500", {}),
        ("GET", "/status/304", {}),
        ("DELETE", "/status/204", {}),
        ("GET", "/bytes/1024?seed=7", {}),
        ("GET", "/stream-bytes/5000?seed=7&chunk_size=700", {}),
        ("GET", "/range/200", {"Range": "bytes=10-19"}),
        ("GET", "/redirect/1", {}),
        ("GET", "/absolute-redirect/1", {"Host": "example.com"}),
        ("GET", "/cookies/set?a=1&b=2", {}),
        ("GET", "/cookies", {"Cookie": "a=1; b=2"}),
        ("GET", "/basic-auth/user/pass", {}),
        ("GET", "/basic-auth/user/pass", {"Authorization": "Basic dXNlcjpwYXNz"}),
        ("GET", "/bearer", {"Authorization": "Bearer token"}),
        ("GET", "/etag/abc", {"If-None-Match": '"abc"'}),
        ("GET", "/response-headers?X-A=1&X-A=2&x-b=%20c", {}),
        ("GET", "/image/png", {}),
        ("GET", "/encoding/utf8", {}),
        ("GET", "/html", {}),
        ("HEAD", "/bytes/1024?seed=7", {}),
        ("OPTIONS", "/get", {}),
        ("TRIP", "/get", {}),
        ("GET", "/drip?numbytes=5&duration=0.2", {}),
    ],
)
def test_the_same_answer(
    ask: Callable[..., tuple[requests.Response, requests.Response]], method: str, path: str, headers: dict[str, str]
) -> None:
    direct, through = ask(method, path, headers=headers)
    assert head_of(through) == head_of(direct)
    assert through.content == direct.content
    assert through.headers.get("Content-Length") == direct.headers.get("Content-Length")
    assert len(through.headers["X-Request-ID"]) == 32


# ---- bodies that tell what came

MULTIPART = b'--b\r\nContent-Disposition: form-data; name="u"; filename="n"\r\n\r\nx\r\n--b--\r\n'


class Chunks:
    """A body of no declared length, that can be sent twice."""

    def __iter__(self) -> Iterator[bytes]:
        return iter((b"chunk ", b"by ", b"chunk"))


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("GET", "/get?a=1&a=2&b=%20%2F", {}),
        ("GET", "/headers", {"headers": {"X-Custom": "caf\xe9", "Accept-Language": "de"}}),
        ("POST", "/post", {"data": {"field": "value", "other": "a b"}}),
        ("POST", "/post", {"json": {"deep": [1, 2, {"x": None}]}}),
        ("POST", "/post", {"data": bytes(range(256))}),
        ("POST", "/post", {"data": MULTIPART, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}),
        ("POST", "/post", {"data": Chunks()}),
        ("PUT", "/put", {"data": b"x" * 100_000}),
        ("PATCH", "/patch", {"data": b"x"}),
        ("DELETE", "/delete", {}),
        ("GET", "/anything/a%2Fb/c;d/%C3%A9?x=[1]&y", {}),
        ("GET", "/delay/1", {}),
    ],
)
def test_the_same_request_comes_through(
    ask: Callable[..., tuple[requests.Response, requests.Response]], method: str, path: str, sent: dict[str, Any]
) -> None:
    direct, through = ask(method, path, **sent)
    assert head_of(through) == head_of(direct)
    assert plain(through.json()) == plain(direct.json())


def test_what_a_proxy_adds_is_there(gateway: GatewayProcess) -> None:
    said = gateway.get("/get?show_env=1").json()["headers"]
    assert said.keys() >= ADDED
    assert (said["X-Forwarded-For"], said["Via"]) == ("127.0.0.1", "1.1 gwproxy")


@pytest.mark.parametrize("path", ["/gzip", "/deflate", "/brotli"])
def test_compressed_bodies_stay_as_they_are(ask: Callable[..., tuple[requests.Response, requests.Response]], path: str) -> None:
    direct, through = ask("GET", path)
    assert head_of(through) == head_of(direct)
    assert through.headers["Content-Length"] == str(len(through.content))
    if path == "/gzip":
        assert plain(json.loads(gzip.decompress(through.content))) == plain(json.loads(gzip.decompress(direct.content)))


def test_a_stream_of_lines(ask: Callable[..., tuple[requests.Response, requests.Response]]) -> None:
    direct, through = ask("GET", "/stream/3")
    assert head_of(through) == head_of(direct)
    said = [[plain(json.loads(line)) for line in answer.content.splitlines()] for answer in (direct, through)]
    assert said[0] == said[1]
    assert [line["id"] for line in said[1]] == [0, 1, 2]
