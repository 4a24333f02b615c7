from __future__ import annotations

import datetime
import sys
import time
from types import ModuleType

import pytest

from gwproxy.errors import StoreUnavailable
from gwproxy.testing import Clock, InProcessGateway, MemoryStore

MODULE = """
import datetime, time
from datetime import datetime as Moment
from datetime import date as Day
from time import monotonic, time as now

from gwproxy import Plugin, hookimpl

class Timed(Plugin):
    name = "timed"

    @hookimpl
    def pre_auth(self, ctx):
        moments = [datetime.datetime.now(datetime.timezone.utc).timestamp(), Moment.now().timestamp(), time.time(), now()]
        ctx.state["times"] = [*moments, time.time_ns() / 1e9]
        ctx.state["monotonic"] = [monotonic(), time.monotonic()]
        ctx.state["days"] = {Day.today(), datetime.date.today(), Moment.today().date(), datetime.datetime.now().date()}
        assert isinstance(datetime.datetime.fromtimestamp(0), Moment) and isinstance(datetime.date.fromtimestamp(0), Day)
"""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("timed_plugin")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    exec(compile(MODULE, "timed_plugin.py", "exec"), made.__dict__)
    return made


def test_modules_of_a_plugin_see_the_clock_of_the_test_under_any_name(gateway: InProcessGateway, module: ModuleType) -> None:
    gateway.use(module.Timed)
    first = gateway.get().state
    gateway.clock.advance(3600)
    second = gateway.get().state
    for name in ("times", "monotonic"):
        assert all(3600 <= late - early < 3660 for early, late in zip(first[name], second[name], strict=True))
    assert max(second["times"]) - min(second["times"]) < 60
    assert time.time() < min(second["times"])  # everybody else has the real one


def test_afterwards_they_see_the_real_one(module: ModuleType) -> None:
    with InProcessGateway() as gateway:
        gateway.use(module.Timed)
        assert module.time is time
        gateway.clock.advance(1)
        assert module.time is not time
    assert (module.time, module.now, module.monotonic, module.datetime, module.Moment) == (
        time,
        time.time,
        time.monotonic,
        datetime,
        datetime.datetime,
    )


def test_it_goes_with_the_real_time_and_never_back() -> None:
    clock = Clock()
    assert time.time() <= clock.time() <= time.time()
    clock.advance(5)
    assert time.monotonic() + 5 <= clock.monotonic() <= time.monotonic() + 5
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_it_can_be_any_moment_and_goes_on_from_there(gateway: InProcessGateway, module: ModuleType) -> None:
    gateway.use(module.Timed)
    before = gateway.get().state["monotonic"]
    for year in (2030, 1999):
        noon = datetime.datetime(year, 6, 2, 12, tzinfo=datetime.UTC)
        gateway.clock.set(noon)
        state = gateway.get().state
        assert all(noon.timestamp() <= moment < noon.timestamp() + 60 for moment in state["times"])
        assert state["days"] == {noon.astimezone().date()}
    assert state["monotonic"][0] - before[0] < 60  # which is no calendar's
    gateway.clock.advance(3600)
    assert gateway.get().state["times"][0] >= noon.timestamp() + 3600


def test_a_moment_without_a_time_zone_is_none() -> None:
    with pytest.raises(ValueError, match="has a time zone"):
        Clock().set(datetime.datetime(2030, 6, 2))


def test_counters_and_keys_live_by_it() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    assert [store.take("a", limit=2, window=60).allowed for _ in range(3)] == [True, True, False]
    assert [store.claim("k", ttl=5), store.claim("k", ttl=5)] == [True, False]
    store.put("v", b"1", ttl=10)
    clock.advance(7)
    assert (store.get("v"), store.claim("k", ttl=1)) == (b"1", True)
    clock.advance(53.1)
    assert (store.get("v"), store.take("a", limit=2, window=60).remaining) == (None, 1)


def test_a_store_that_is_away_says_so_as_in_a_worker() -> None:
    store = MemoryStore(Clock())
    store.away = True
    for call in (
        lambda: store.take("a", limit=1, window=1),
        lambda: store.get("a"),
        lambda: store.put("a", b"", ttl=1),
        lambda: store.claim("a", ttl=1),
    ):
        with pytest.raises(StoreUnavailable):
            call()
    store.log("l", b"lost")
    assert store.take_locally("a", limit=1, window=1).allowed
    store.away = False
    for number in range(4):
        store.log("l", b"%d" % number, keep=2)
    assert store.logged["l"] == [b"2", b"3"]


def test_a_value_that_is_no_bytes_is_refused_as_by_the_real_one() -> None:
    with pytest.raises(TypeError, match="a value is bytes, not str"):
        MemoryStore(Clock()).put("a", "text", ttl=1)  # type: ignore[arg-type]


def test_a_limit_falls_back_when_the_store_is_away(gateway: InProcessGateway) -> None:
    gateway.use("rate_limit", {"limit": 1, "window_seconds": 60, "on_store_error": "deny"})
    gateway.store.away = True
    assert gateway.get().status == 503
    gateway.store.away = False
    assert [gateway.get().status, gateway.get().status] == [200, 429]
    gateway.clock.advance(60.1)
    assert gateway.get().status == 200
