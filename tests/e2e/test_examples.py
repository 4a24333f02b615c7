"""The packages in examples/, pushed hot to two gateways of two workers under traffic: used, changed, taken back, taken out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gwproxy.store.configuration import digest_of
from tests.e2e.conftest import GatewayProcess, RedisServer, until
from tests.e2e.pushing import Pushing
from tests.e2e.raw import Answer, RawClient
from tests.e2e.two_gateways import Traffic
from tests.test_examples import NAMES, build

pytestmark = pytest.mark.e2e

SECRET = "a secret of this test, 32 characters or more"


def upstream_saw(answer: Answer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.json()["headers"]}


def signed_for(tenant: str) -> str:
    """The cookie of a tenant, made as the plugin's page says."""
    signed = f"{tenant}.{int(time.time()) + 600}"
    mac = hmac.new(SECRET.encode(), f"tenant={signed}".encode(), hashlib.sha256).digest()
    return f"Cookie: tenant={signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def redacts(client: RawClient) -> None:
    seen = upstream_saw(client.ask("/asked", "X-Note: write to ann@example.com", "Email: x"))
    assert (seen["x-note"], seen["x-forwarded-for"]) == ("write to ***", "***")


def tells_the_tenant(client: RawClient) -> None:
    assert upstream_saw(client.ask("/asked", signed_for("acme"), "X-Tenant: evil"))["x-tenant"] == "acme"
    assert "x-tenant" not in upstream_saw(client.ask("/asked", "X-Tenant: evil"))
    forged = client.ask("/asked", signed_for("acme").replace("acme", "evil"))
    assert (forged.status, forged.json()) == (401, {"error": "Invalid token"})


def is_read_only(client: RawClient) -> None:
    assert client.ask("/asked").status == 200
    refused = client.ask("/asked", method="POST", body=b"{}")
    assert (refused.status, refused.json()) == (503, {"error": "Service Unavailable"})
    assert 0 < int(refused.get("Retry-After") or 0) <= 7 * 86_400


@dataclass(frozen=True)
class Example:
    """One of them.

    :ivar config: that it is used with.
    :ivar works: asks whether it does what it is for, on one connection.
    :ivar holds: whether an answer to a plain request is one that it has had to do with.
    """

    config: dict[str, Any]
    works: Callable[[RawClient], None]
    holds: Callable[[Answer], bool]


EVERY_DAY = [{"at": "00:00", "minutes": 1440}]
CASES = {
    "maintenance": Example({"weekly": EVERY_DAY, "read_only": True}, is_read_only, lambda answer: answer.status == 200),
    "redact": Example(
        {"patterns": [r"\w+@[\w.]+", r"127\.0\.0\.1"]}, redacts, lambda answer: b"***" in answer.body and b"127.0.0.1" not in answer.body
    ),
    "tenant-cookie": Example(
        {"secrets": [SECRET], "required": False}, tells_the_tenant, lambda answer: "x-tenant" not in upstream_saw(answer)
    ),
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each of them as it is, and as another version."""
    folder = tmp_path_factory.mktemp("dist")
    for version in ("1.0", "1.1"):
        build(folder, tmp_path_factory.mktemp("sources"), version)
    return folder


@pytest.fixture(scope="module")
def pushing(
    redis_server: RedisServer, echo: str, start_gateway: Callable[..., GatewayProcess], tmp_path_factory: pytest.TempPathFactory
) -> Pushing:
    return Pushing(tmp_path_factory.mktemp("pushing"), redis_server, echo, start_gateway)


def use(pushing: Pushing, upstream: str, *plugins: dict[str, Any]) -> None:
    """Have all run a configuration with these."""
    text = json.dumps([{"path": "/asked", "upstream": upstream, "plugins": plugins}])
    pushing.client.set("gw:routes", text)
    until(lambda: {beat["digest"] for beat in pushing.beats()} == {digest_of(text.encode())}, "all to have the routes")


def told(pushing: Pushing, *argv: str | Path) -> None:
    """Run a command that must do what it is asked."""
    done = pushing.command(*argv)
    assert done.returncode == 0, done.stdout + done.stderr


def running(pushing: Pushing, plugin: str) -> list[str]:
    """By each worker, the version of a plugin that it has from a wheel."""
    return [json.loads(beat["pushed"])[plugin]["version"] for beat in pushing.beats()]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_pushed_hot_used_changed_and_taken_back(pushing: Pushing, wheels: Path, echo: str, name: str) -> None:
    case, plugin, distribution = CASES[name], name.replace("-", "_"), f"gwproxy-{name}"
    first, second = (wheels / f"gwproxy_{plugin}-{version}-py3-none-any.whl" for version in ("1.0", "1.1"))
    use(pushing, echo)
    told(pushing, "sign", first, "--key", pushing.folder / "tag.key")
    told(pushing, "push", first)
    use(pushing, echo, {"name": plugin, "config": case.config})
    for gateway in pushing.each * 4:  # connections of which each goes to some worker
        with RawClient(gateway.port) as client:
            case.works(client)

    with Traffic(pushing.each, case.holds) as traffic:
        traffic.goes_on()
        pushing.make(pushing.plan(second.read_bytes()))
        assert running(pushing, plugin) == ["1.1"] * 4
        traffic.goes_on()
        pushing.make(pushing.people.rollback(distribution))
        assert running(pushing, plugin) == ["1.0"] * 4
        traffic.goes_on()
    assert traffic.failures == []
    assert all(all(held) for held in traffic.served)  # no request has passed it by meanwhile

    use(pushing, echo)
    pushing.make(pushing.people.remove(distribution))


def test_each_has_its_own_case() -> None:
    assert sorted(CASES) == NAMES
