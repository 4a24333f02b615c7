"""The admin listener's application in this process, asked by a test client, on a real Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from werkzeug.test import Client, TestResponse

from gwproxy.admin.app import AdminApp
from gwproxy.settings import Settings
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.tokens import Role
from tests.conftest import Server

SECRET = "correct-horse-battery-staple-0123456789"
DOCUMENT = {
    "upstreams": {"users": {"targets": [{"url": "http://10.0.0.5:8000"}]}},
    "consumers": [{"id": "acme", "groups": ["gold"], "match": {"user_id": "acme-service"}}],
    "routes": [
        {
            "id": "users",
            "path": "/api/users",
            "upstream": "users",
            "plugins": [
                {"name": "jwt_auth", "config": {"secret": SECRET}},
                {"name": "request_transform", "config": {"add_headers": {"X-Key": "${GW_USERS_KEY:-hunter2hunter2}"}}},
            ],
        },
        {"path": "/health", "upstream": "http://127.0.0.1:9000"},
    ],
}


@dataclass
class Api:
    """Asks an app, with a token of its own.

    :ivar token: None: none is sent.
    """

    app: AdminApp
    token: str | None

    def __call__(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **options: Any) -> TestResponse:
        sent = {"Host": "127.0.0.1:8081", **({"Authorization": f"Bearer {self.token}"} if self.token else {}), **(headers or {})}
        if body is not None:
            options |= {"data": body if isinstance(body, bytes) else orjson.dumps(body)}
            sent.setdefault("Content-Type", "application/json")
        options.setdefault("environ_overrides", {"REMOTE_ADDR": "127.0.0.1"})
        return Client(self.app).open(path, method=method, headers=sent, **options)

    def get(self, path: str, **options: Any) -> TestResponse:
        return self("GET", path, **options)

    def json(self, path: str, **options: Any) -> Any:
        answer = self.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> Settings:
    return Settings(redis_url=server.url, state_dir=tmp_path, admin_token="the-first-token-of-all")


@pytest.fixture
def start(settings: Settings) -> Iterator[Callable[..., AdminApp]]:
    """Starts apps, with the settings of the test unless it names others."""
    started: list[AdminApp] = []

    def make(own: Settings | None = None) -> AdminApp:
        app = AdminApp(own or settings)
        app.start()
        started.append(app)
        return app

    yield make
    for app in started:
        app.drain()
        app.plane.store.close()


@pytest.fixture
def app(start: Callable[..., AdminApp]) -> AdminApp:
    return start()


@pytest.fixture
def api(app: AdminApp, settings: Settings) -> Api:
    """The API, for the admin."""
    return Api(app, settings.admin_token)


@pytest.fixture
def role(app: AdminApp) -> Callable[[Role], Api]:
    """The API, for whoever has a role."""

    def made(role: Role) -> Api:
        return Api(app, app.plane.tokens.create(f"a-{role}", role, by="test")[1])

    return made


@pytest.fixture
def store(app: AdminApp) -> ConfigurationStore:
    return app.plane.store


@pytest.fixture
def live(store: ConfigurationStore) -> int:
    """A live configuration; its revision."""
    return store.publish(orjson.dumps(DOCUMENT), actor="ann", comment="first").revision


def heartbeat(client: redis.Redis, ident: str, **fields: str) -> None:
    """What a worker writes."""
    known = {"host": "gw-1", "pid": "7", "state": "ready", "revision": "1", "digest": "", "error": "", "started": "", "applied_at": ""}
    client.hset(f"gw:worker:{ident}", mapping={**known, **fields})
