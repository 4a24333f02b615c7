"""Following what is pushed: run as a whole, refused as a whole, found again after a restart, taken out when it is revoked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gwproxy import Plugin, PluginConfig, hookimpl
from gwproxy.registry import Registry
from gwproxy.wheels import minisign
from gwproxy.wheels.deployment import Deployment
from tests.controlplane.pushing import BARE, KEY, ROUTE, Bench, tenant
from tests.wheels.made import make_wheel

STRANGER = minisign.SecretKey(b"stranger", b"\x09" * 32)
FAILED = 502  # what an upstream that nobody is gives: all plugins have run


class Tenant(Plugin):
    name = "tenant"

    @hookimpl
    def response(self, ctx: Any) -> None:
        ctx.response_headers["X-Tenant-Version"] = "installed"


class Choosy(Tenant):
    class Config(PluginConfig):
        needed: int

    config_model = Config


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path, installed=Registry.of(Tenant()))
    made.serve(ROUTE, BARE)
    return made


def other(version: str = "1.0", name: str = "other") -> bytes:
    source = f"from gwproxy import Plugin\nclass Other(Plugin):\n    name = {name!r}\n"
    return make_wheel({"other.py": source}, distribution="gwproxy-other", version=version, plugins={name: "other:Other"})


def test_what_is_pushed_wins_over_what_is_installed_and_gives_the_name_back(bench: Bench) -> None:
    assert bench.ask() == (FAILED, "installed")
    bench.push(tenant("1.0"))
    assert bench.ask() == (FAILED, "1.0")
    bench.push(tenant("2.0"))
    assert bench.ask() == (FAILED, "2.0")
    bench.remove("gwproxy-tenant")
    assert bench.ask() == (FAILED, "installed")
    assert (bench.standing.deployment_refused, bench.standing.deployment_error) == ("", "")


def test_only_the_chains_that_use_it_are_built_again(bench: Bench) -> None:
    bench.serve(ROUTE, BARE, {**ROUTE, "path": "/off", "plugins": []})
    before = bench.gateway.snapshot
    bench.push(tenant("1.0"))
    after = bench.gateway.snapshot
    assert before is not None
    assert after is not None
    assert [old is new for old, new in zip(before.routes, after.routes, strict=True)] == [False, True, True]
    bench.push(other())  # which nobody uses
    assert bench.gateway.snapshot is not None
    assert [old is new for old, new in zip(after.routes, bench.gateway.snapshot.routes, strict=True)] == [True, True, True]


def test_a_wheel_that_two_deployments_share_is_loaded_once(bench: Bench) -> None:
    bench.push(tenant("1.0"))
    before = bench.watcher.deployed.registry.find("tenant")
    bench.push(other())
    assert bench.watcher.deployed.registry.find("tenant") is before
    assert sorted(bench.watcher.deployed.shown()) == ["other", "tenant"]


def needing(model: str) -> bytes:
    source = f"""
    from gwproxy import Plugin, PluginConfig
    class Config(PluginConfig):
        {model}
    class Tenant(Plugin):
        name = "tenant"
        config_model = Config
    """
    return make_wheel({"gwproxy_tenant.py": source}, version="3.0")


def raising(text: str) -> bytes:
    return make_wheel({"gwproxy_tenant.py": text}, version="3.0")


@pytest.mark.parametrize(
    ("data", "key", "says"),
    [
        (tenant("3.0"), None, "no signature"),
        (tenant("3.0"), STRANGER, STRANGER.id),
        (raising("import nothing_of_this_name"), KEY, "nothing_of_this_name"),
        (raising("raise SystemExit(3)"), KEY, "SystemExit"),
        (raising("class Tenant: ..."), KEY, "not a subclass"),
        (needing("needed: int"), KEY, "routes[0].plugins[0].config: found nothing, expected the key 'needed'"),
        (tenant("3.0", requires=["gwproxy-of-nobody>=1"]), KEY, "gwproxy-of-nobody"),
    ],
    ids=["unsigned", "strange-key", "import", "exit", "specs", "config", "requirement"],
)
def test_what_is_not_fit_is_refused_as_a_whole_with_the_reason(
    bench: Bench, data: bytes, key: minisign.SecretKey | None, says: str
) -> None:
    good = bench.push(tenant("1.0"))
    served = bench.gateway.snapshot
    bad = bench.push(data, key)
    assert bench.gateway.snapshot is served
    assert bench.ask() == (FAILED, "1.0")
    assert bench.watcher.deployed.digest == good.digest
    assert bench.standing.deployment_refused == bad.digest
    assert says in bench.standing.deployment_error
    assert bench.standing.state == "ready"  # of the configuration
    bench.deploy(good)
    assert (bench.standing.deployment_refused, bench.standing.deployment_error) == ("", "")


def test_a_wheel_is_what_the_deployment_says_or_refused(bench: Bench) -> None:
    pinned = bench.store.put(tenant("1.0")).pinned
    bench.store.wheels[pinned.sha256] = bench.store.wheels[bench.store.put(tenant("2.0")).sha256]
    bench.deploy(Deployment((pinned,)))
    assert "not those that were deployed" in bench.standing.deployment_error
    assert bench.ask() == (FAILED, "installed")


def test_the_same_refused_deployment_is_judged_once_for_a_configuration(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.push(needing("needed: int"))
    for _ in range(5):
        bench.watcher.step()
    assert sum("deployment_refused" in record.message for record in caplog.records) == 1
    asked = {**ROUTE, "plugins": [{"name": "tenant", "config": {"needed": 1}}]}
    bench.serve(asked)  # which the installed one refuses
    assert bench.standing.state == "refused"
    bench.serve(BARE)
    bench.watcher.step()  # now that no route has a configuration that it refuses, it runs
    assert bench.watcher.deployed.digest == bench.live.digest


def test_a_configuration_that_waits_for_a_plugin_is_served_once_that_is_pushed(bench: Bench) -> None:
    bench.serve({**ROUTE, "path": "/new", "plugins": [{"name": "other"}]})
    assert (bench.standing.state, bench.ask("/new")[0]) == ("refused", 404)
    bench.push(other())
    assert (bench.standing.state, bench.standing.error, bench.ask("/new")[0]) == ("ready", "", FAILED)


def test_without_keys_nothing_is_loaded_and_the_heartbeat_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, installed=Registry.of(Tenant()), keys=False)
    bench.serve(ROUTE, step=False)
    pushed = bench.push(tenant("1.0"))
    assert bench.ask() == (FAILED, "installed")
    assert bench.standing.deployment_refused == pushed.digest
    assert "GWPROXY_PLUGIN_KEYS" in bench.standing.deployment_error
    assert bench.store.asked == 0


def test_what_is_pushed_before_there_is_a_configuration_waits_for_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.push(tenant("1.0"))
    assert bench.gateway.snapshot is None
    bench.serve(ROUTE)
    assert bench.ask() == (FAILED, "1.0")


# ---- restarts


def test_a_start_with_the_store_away_runs_the_same_versions(tmp_path: Path, bench: Bench) -> None:
    pushed = bench.push(tenant("1.0"))
    again = Bench(tmp_path)
    again.store.away = again.source.away = True
    again.watcher.step()
    assert again.ask() == (FAILED, "1.0")
    assert again.watcher.deployed.digest == pushed.digest


def test_a_start_with_the_store_away_after_all_was_taken_back_runs_none_of_it(tmp_path: Path, bench: Bench) -> None:
    bench.push(tenant("1.0"))
    bench.remove("gwproxy-tenant")
    again = Bench(tmp_path, installed=Registry.of(Tenant()))
    again.source.away = True
    again.watcher.step()
    assert again.ask() == (FAILED, "installed")


@pytest.mark.parametrize("newest", [raising("raise ValueError"), needing("needed: int")], ids=["does-not-load", "does-not-suit"])
def test_a_start_whose_newest_deployment_is_refused_runs_the_last_good_one(tmp_path: Path, bench: Bench, newest: bytes) -> None:
    bench.push(tenant("1.0"))
    again = Bench(tmp_path, store=bench.store)
    again.serve(ROUTE, step=False)
    refused = again.push(newest)
    assert again.ask() == (FAILED, "1.0")
    assert (again.standing.state, again.standing.deployment_refused) == ("ready", refused.digest)


def test_a_wheel_on_disk_is_verified_each_time_it_is_loaded(tmp_path: Path, bench: Bench) -> None:
    bench.push(tenant("1.0"))
    (file,) = (tmp_path / "wheels").glob("*.whl")
    file.write_bytes(tenant("6.6"))
    again = Bench(tmp_path, installed=Registry.of(Tenant()))
    again.store.away = again.source.away = True
    again.watcher.step()
    assert again.ask() == (FAILED, "installed")
    again = Bench(tmp_path, store=bench.store)
    again.serve(ROUTE, step=False)
    again.deploy(bench.live)
    assert again.ask() == (FAILED, "1.0")  # the store had it
    assert file.read_bytes() == tenant("1.0")


def test_a_wheel_is_read_from_the_store_once_a_machine(tmp_path: Path, bench: Bench) -> None:
    bench.push(tenant("1.0"))
    again = Bench(tmp_path, store=bench.store)
    again.serve(ROUTE, step=False)
    again.deploy(bench.live)
    assert again.ask() == (FAILED, "1.0")
    assert bench.store.asked == 1


def test_a_store_that_goes_away_in_the_middle_of_a_push_is_waited_for(bench: Bench) -> None:
    bench.store.away = True
    bench.push(tenant("1.0"))
    assert bench.ask() == (FAILED, "installed")
    assert bench.standing.deployment_refused == ""
    bench.store.away = False
    bench.watcher.step()
    assert bench.ask() == (FAILED, "1.0")


# ---- revocation


@pytest.mark.parametrize("revoked", ["wheel", "key"])
def test_a_wheel_that_is_revoked_is_taken_out_and_stays_out(tmp_path: Path, bench: Bench, revoked: str) -> None:
    pushed = bench.push(tenant("1.0"))
    (pinned,) = pushed.wheels
    bench.revoke(pinned.sha256 if revoked == "wheel" else KEY.id)
    assert bench.ask() == (FAILED, "installed")
    assert bench.standing.deployment_refused == pushed.digest
    assert "it leaks" in bench.standing.deployment_error
    again = Bench(tmp_path)  # the store has forgotten it, this machine has not
    again.serve(ROUTE, step=False)
    again.store.wheels = bench.store.wheels
    again.deploy(pushed)
    assert again.ask() == (503, None)
    assert "revoked" in again.standing.deployment_error


def test_without_an_installed_one_its_routes_answer_503_and_others_go_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.push(other())
    pushed = bench.push(tenant("1.0"))
    bench.serve(ROUTE, BARE, {**BARE, "path": "/other", "plugins": [{"name": "other"}]})
    assert bench.ask() == (FAILED, "1.0")
    kept = bench.watcher.deployed.registry.find("other")
    bench.revoke(next(wheel.sha256 for wheel in pushed if wheel.distribution == "gwproxy-tenant"))
    assert [bench.ask(path)[0] for path in ("/a", "/bare", "/other")] == [503, FAILED, FAILED]
    assert bench.watcher.deployed.registry.find("other") is kept


def test_an_installed_one_with_another_configuration_is_not_what_was_meant(tmp_path: Path) -> None:
    bench = Bench(tmp_path, installed=Registry.of(Choosy()))
    pushed = bench.push(tenant("1.0"))
    bench.serve(ROUTE, BARE)
    bench.revoke(pushed.wheels[0].sha256)
    assert [bench.ask(path)[0] for path in ("/a", "/bare")] == [503, FAILED]


# ---- candidates


def test_what_is_staged_is_built_beside_and_taken_over_without_loading_again(bench: Bench) -> None:
    bench.push(tenant("1.0"))
    next_ = bench.live.with_(bench.store.put(tenant("2.0")).pinned)
    bench.propose(next_)
    shown = bench.watcher.beside.shown()
    assert shown is not None
    assert (shown["state"], shown["deployment"]) == ("built", next_.digest)
    assert bench.ask() == (FAILED, "1.0")
    held = bench.watcher.beside.held
    assert held is not None
    assert held.made is not None
    made = held.made
    bench.source.candidate = None
    bench.deploy(next_)
    assert bench.ask() == (FAILED, "2.0")
    assert bench.gateway.snapshot is made.snapshot


def test_what_is_staged_and_given_up_is_retired(bench: Bench) -> None:
    bench.push(tenant("1.0"))
    bench.propose(bench.live.with_(bench.store.put(tenant("2.0")).pinned))
    bench.source.candidate = None
    bench.watcher.step()
    assert [wheel.pinned.version for wheel in bench.retirement.waiting] == ["2.0"]
    assert bench.ask() == (FAILED, "1.0")


def test_a_stage_that_is_not_fit_is_refused_and_what_serves_is_left_alone(bench: Bench) -> None:
    bench.push(tenant("1.0"))
    served = bench.gateway.snapshot
    bench.propose(bench.live.with_(bench.store.put(needing("needed: int")).pinned))
    shown = bench.watcher.beside.shown()
    assert shown is not None
    assert shown["state"] == "refused"
    assert "routes[0].plugins[0].config: found nothing, expected the key 'needed'" in shown["error"]
    assert bench.gateway.snapshot is served


def test_a_canary_serves_its_clients_with_the_new_version_and_loses_them_when_it_is_revoked(bench: Bench) -> None:
    bench.push(tenant("1.0"))
    next_ = bench.live.with_(bench.store.put(tenant("2.0")).pinned)
    bench.propose(next_, "canary", 100)
    assert bench.ask() == (FAILED, "2.0")
    bench.revoke(next_.wheels[0].sha256)
    assert bench.ask() == (FAILED, "1.0")
    shown = bench.watcher.beside.shown()
    assert shown is not None
    assert "it leaks" in shown["error"]
