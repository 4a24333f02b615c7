"""``/openapi.json`` and the app, held against each other by generated requests: every answer is one that is described."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
import redis
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from gwproxy.admin import changing
from gwproxy.admin.app import AdminApp
from gwproxy.admin.endpoints import Endpoint
from gwproxy.admin.guard import Guesses
from gwproxy.admin.table import ENDPOINTS
from gwproxy.controlplane.rollout import Rollout
from gwproxy.settings import Settings as Own
from gwproxy.store.connection import connect
from tests.admin.conftest import DOCUMENT, heartbeat
from tests.conftest import Server

EXAMPLES = 25  # an endpoint
TOKEN = "the-first-token-of-all"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Host": "127.0.0.1:8081"}

#: What cannot be said in a schema decides whether a request is done: names that must exist, paths, URLs, plugins, what is live.
#: And a token that comes with the case is taken for a made-up one; test_guard.py asks every endpoint without one.
UNFIT = [positive_data_acceptance, ignored_auth]

#: This one judges whatever it is sent, and refuses nothing.
JUDGES = "/v1/validate"


@pytest.fixture(scope="module")
def app(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> AdminApp:
    if shared_server.process is None or not shared_server.answers():
        shared_server.kill()
        shared_server.start()
    app = AdminApp(Own(redis_url=shared_server.url, state_dir=tmp_path_factory.mktemp("state"), admin_token=TOKEN))
    app.start()
    app._door.guesses = Guesses(burst=1_000_000)  # one check of schemathesis is to send wrong tokens
    return app


@pytest.fixture(scope="module")
def schema(app: AdminApp) -> Any:
    return schemathesis.openapi.from_wsgi("/openapi.json", app, headers=HEADERS)


@pytest.fixture
def client(shared_server: Server) -> redis.Redis:
    return connect(shared_server.url, timeout=5.0)


@pytest.fixture
def live(app: AdminApp, client: redis.Redis) -> Callable[[], None]:
    """Puts everything that can be asked for into the store."""
    client.flushall()

    def put() -> None:
        if app.plane.store.read().data is None or not app.plane.tokens.all():
            app.plane.store.publish(orjson.dumps(DOCUMENT), actor="ann")
            app.plane.tokens.create("ci", "viewer", by="ann")
            client.rpush("gw:access_log", b'{"request_id": "a", "status": 200}', b"{nonsense")
            heartbeat(client, "a")

    put()
    return put


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has nobody wait for workers that are not there, however long is asked for."""

    def follow(*args: Any, timeout: float, **options: Any) -> Rollout:
        return Rollout(*args, timeout=min(timeout, 0.05), **options)

    monkeypatch.setattr(changing, "Rollout", follow)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method}-{endpoint.path}")
def test_every_answer_is_one_that_is_described(schema: Any, live: Callable[[], None], endpoint: Endpoint) -> None:
    operation = schema[endpoint.path][endpoint.method]

    @seed(7)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=strategies.one_of(*(operation.as_strategy(generation_mode=mode, headers=HEADERS) for mode in GenerationMode)))
    def play(case: Any) -> None:
        live()
        case.call_and_validate(excluded_checks=[*UNFIT, negative_data_rejection] if endpoint.path == JUDGES else UNFIT)

    play()
