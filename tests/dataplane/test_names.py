"""What DNS says of targets: asked again by TTL, kept when nobody answers. The clock is the test's, and so are the answers."""

from __future__ import annotations

import json

import gevent
import pytest

from gwproxy.dataplane.health import HealthChecks
from gwproxy.dataplane.names import MOST, Answer, LookupFailed, Names, Question, Record
from gwproxy.dataplane.target import LEAST_SHARE
from gwproxy.dataplane.tending import Tending
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.errors import ServiceUnavailable
from gwproxy.model import DNS, Target, Upstream
from gwproxy.tally import Tally
from tests.dataplane.seats import ctx

USERS = Target(url="http://users.internal:8000/base", resolve="a")
SERVICE = Target(url="http://_http._tcp.users.internal", resolve="srv")


def hosts(*addresses: str) -> tuple[Record, ...]:
    return tuple(map(Record, addresses))


class Bench:
    """Upstreams, at a time that the test sets, and a DNS that says what the test says.

    :ivar zone: by kind and name; what is not there is answered with nothing, what is None is not answered.
    :ivar asked: every lookup.
    """

    def __init__(self, **zone: object) -> None:
        self.now = 1000.0
        self.ttl = 30.0
        self.zone: dict[str, tuple[Record, ...] | None] = {}
        self.asked: list[str] = []
        self.tally = Tally()
        self.upstreams = Upstreams(self.tally)
        self.names = self.upstreams.names = Names(self.tally, self.look_up, lambda: self.now)
        self.tending = Tending(self.upstreams, HealthChecks(self.upstreams, clock=lambda: self.now), lambda: self.now)

    def look_up(self, question: Question) -> Answer:
        key = f"{question.kind} {question.name}"
        self.asked.append(key)
        records = self.zone.get(key, ())
        if records is None:
            raise LookupFailed("nobody answers")
        return Answer(records, self.ttl)

    def named(self, *targets: Target, **keys: object) -> LiveUpstream:
        return self.upstreams.named("users", Upstream(targets=targets, **keys))  # type: ignore[arg-type]

    def later(self, seconds: float = 0.0) -> None:
        """Let time pass, then what is due be done, until nothing is."""
        self.now += seconds
        for _ in range(4):  # a service's servers are asked for once they are known
            gevent.joinall(self.tending.look(), raise_error=True)
            self.tending.look()


def urls(live: LiveUpstream) -> list[str]:
    return [target.url for target in live.targets]


def picked(live: LiveUpstream, count: int = 60) -> set[str]:
    return {live.pick(ctx()).url for _ in range(count)}


def test_every_address_is_a_target_and_nothing_is_one_before_there_is_an_answer() -> None:
    bench = Bench()
    bench.zone = {"A users.internal": hosts("10.0.0.1", "10.0.0.2")}
    live = bench.named(USERS)
    assert [target.state for target in live.targets] == ["unresolved"]
    with pytest.raises(ServiceUnavailable):
        live.pick(ctx())
    assert live.single is None
    bench.later()
    assert urls(live) == ["http://10.0.0.1:8000/base", "http://10.0.0.2:8000/base"]
    assert picked(live) == set(urls(live))
    target = live.targets[0]
    assert (target.authority, target.prefix, target.origin.host) == ("users.internal:8000", "/base", "10.0.0.1")


def test_it_is_asked_again_when_the_time_to_live_is_over_and_not_before() -> None:
    bench = Bench()
    bench.zone = {"A users.internal": hosts("10.0.0.1")}
    live = bench.named(USERS)
    bench.later()
    bench.zone = {"A users.internal": hosts("10.0.0.1", "10.0.0.3")}
    bench.later(29.9)
    assert bench.asked == ["A users.internal"]
    bench.later(0.2)
    assert len(bench.asked) == 2
    assert picked(live) == {"http://10.0.0.1:8000/base", "http://10.0.0.3:8000/base"}


@pytest.mark.parametrize(("ttl", "again"), [(0.0, 2.0), (1000.0, 60.0), (7.0, 7.0)])
def test_the_time_to_live_has_bounds(ttl: float, again: float) -> None:
    bench = Bench()
    bench.ttl = ttl
    bench.named(USERS, dns=DNS(min_ttl=2, max_ttl=60))
    bench.later()
    bench.later(again - 0.1)
    assert len(bench.asked) == 1
    bench.later(0.2)
    assert len(bench.asked) == 2


def test_addresses_that_stay_keep_their_state_and_those_that_are_gone_finish_what_they_have() -> None:
    bench = Bench()
    bench.zone = {"A users.internal": hosts("10.0.0.1", "10.0.0.2")}
    live = bench.named(USERS)
    bench.later()
    stays, goes = live.targets
    stays.active, goes.active = 3, 2
    bench.zone = {"A users.internal": hosts("10.0.0.1", "10.0.0.9")}
    bench.later(31)
    assert live.targets[0] is stays
    assert goes not in live.targets
    assert goes.url not in picked(live)
    goes.active -= 1  # as the request says that has it
    assert goes.active == 1


def test_a_new_address_of_a_name_starts_slowly_and_those_of_the_first_answer_do_not() -> None:
    bench = Bench()
    bench.zone = {"A users.internal": hosts("10.0.0.1")}
    live = bench.named(USERS, slow_start=10)
    bench.later()
    assert live.targets[0].share == 1.0
    bench.zone = {"A users.internal": hosts("10.0.0.1", "10.0.0.2")}
    bench.now += 31
    gevent.joinall(bench.tending.look())
    live.reseat()
    assert [target.share for target in live.targets] == [1.0, LEAST_SHARE]


def test_the_last_answer_stays_when_nobody_answers_and_is_replaced_when_somebody_does() -> None:
    bench = Bench()
    bench.zone = {"A users.internal": hosts("10.0.0.1")}
    live = bench.named(USERS)
    bench.later()
    bench.zone = {"A users.internal": None}
    for _ in range(50):
        bench.later(31)
        assert picked(live) == {"http://10.0.0.1:8000/base"}
    assert bench.tally.get("lookups_failed") == 50
    bench.zone = {"A users.internal": hosts("10.0.0.2")}
    bench.later(2.1)
    assert picked(live) == {"http://10.0.0.2:8000/base"}


def test_an_answer_that_there_is_nothing_empties_the_upstream() -> None:
    bench = Bench()
    bench.zone = {"A users.internal": hosts("10.0.0.1")}
    live = bench.named(USERS)
    bench.later()
    bench.zone = {}
    bench.later(31)
    with pytest.raises(ServiceUnavailable):
        live.pick(ctx())
    assert [target.state for target in live.targets] == ["unresolved"]


def test_a_change_of_the_configuration_asks_nobody_anew_and_forgets_what_it_does_not_name() -> None:
    bench = Bench()
    bench.zone = {"A users.internal": hosts("10.0.0.1")}
    bench.named(USERS)
    bench.later()
    changed = bench.named(USERS, algorithm="random")
    bench.upstreams.keep([changed])
    assert urls(changed) == ["http://10.0.0.1:8000/base"]
    bench.later()
    assert len(bench.asked) == 1
    bench.upstreams.keep([])
    assert bench.names.shown() == {}


def test_what_was_kept_serves_a_process_that_starts_while_dns_is_away() -> None:
    before, after = Bench(), Bench()
    before.zone = {"A users.internal": hosts("10.0.0.1")}
    before.named(USERS)
    before.later()
    after.names.saved = json.loads(json.dumps(before.names.shown()))
    after.zone = {"A users.internal": None}
    live = after.named(USERS)
    assert picked(live) == {"http://10.0.0.1:8000/base"}, "at once"
    after.later()
    assert picked(live) == {"http://10.0.0.1:8000/base"}
    assert after.tally.get("lookups_failed") == 1


@pytest.mark.parametrize("saved", [7, "x", [["10.0.0.1"]], [[1, 2, 3, "x"]], None])
def test_what_is_damaged_counts_as_not_kept(saved: object) -> None:
    bench = Bench()
    bench.names.saved = {"A users.internal ": saved}
    assert [target.state for target in bench.named(USERS).targets] == ["unresolved"]


@pytest.mark.parametrize(
    ("resolve", "four", "six", "expected"),
    [
        ("a", hosts("10.0.0.1"), hosts("fd00::1"), ["http://10.0.0.1:8000"]),
        ("aaaa", hosts("10.0.0.1"), hosts("fd00::1"), ["http://[fd00::1]:8000"]),
        ("all", hosts("10.0.0.1"), hosts("fd00::1"), ["http://10.0.0.1:8000", "http://[fd00::1]:8000"]),
        ("all", hosts("10.0.0.1"), None, ["http://10.0.0.1:8000"]),
        ("all", (), hosts("fd00::1"), ["http://[fd00::1]:8000"]),
    ],
)
def test_which_families_are_used(resolve: str, four: object, six: object, expected: list[str]) -> None:
    bench = Bench()
    bench.zone = {"A users.internal": four, "AAAA users.internal": six}  # type: ignore[dict-item]
    live = bench.named(Target(url="http://users.internal:8000", resolve=resolve))  # type: ignore[arg-type]
    bench.later()
    assert urls(live) == expected


def test_a_service_s_servers_have_their_ports_and_weights_and_the_next_priority_stands_by() -> None:
    bench = Bench()
    bench.zone = {
        "SRV _http._tcp.users.internal": (Record("one", 7001, 30, 0), Record("two", 7002, 10, 0), Record("spare", 7003, 0, 5)),
        "A one": hosts("10.0.0.1"),
        "A two": hosts("10.0.0.2"),
        "A spare": hosts("10.0.0.3"),
    }
    live = bench.named(SERVICE)
    bench.later()
    assert urls(live) == ["http://10.0.0.1:7001", "http://10.0.0.2:7002", "http://10.0.0.3:7003"]
    got = [live.pick(ctx()).url for _ in range(400)]
    assert [got.count(url) for url in urls(live)] == [300, 100, 0]
    assert live.pick(ctx(), live.targets[:2]) is live.targets[2], "a retry may go there, when the others were tried"
    for target in live.targets[:2]:
        target.judged(False, "")
    assert picked(live) == {"http://10.0.0.3:7003"}
    assert {target.authority for target in live.targets} == {"users.internal"}


def test_a_server_whose_address_nobody_tells_does_not_keep_the_others_out() -> None:
    bench = Bench()
    bench.zone = {
        "SRV _http._tcp.users.internal": (Record("one", 7001, 1, 0), Record("two", 7002, 1, 0)),
        "A one": hosts("10.0.0.1"),
        "A two": None,
        "AAAA two": None,
    }
    live = bench.named(SERVICE)
    bench.later()
    assert urls(live) == ["http://10.0.0.1:7001"]


def test_G11_forbidden_addresses_and_too_many_are_left_out_and_counted() -> None:
    bench = Bench()
    many = [f"10.{n >> 8}.{n & 255}.1" for n in range(MOST + 5)]
    bench.zone = {"A users.internal": hosts("169.254.169.254", *many)}
    live = bench.named(USERS)
    bench.later()
    assert len(live.targets) == MOST
    assert not [url for url in urls(live) if "169.254." in url]
    assert bench.tally.get("addresses_forbidden") > 0
    assert bench.tally.get("addresses_dropped") > 0


def test_a_lookup_that_breaks_is_a_failure_like_any_other() -> None:
    bench = Bench()
    bench.names._look_up = lambda question: 1 / 0  # type: ignore[assignment, return-value]
    live = bench.named(USERS)
    bench.later()
    bench.later()
    assert bench.tally.get("lookups_failed") == 1
    assert [target.state for target in live.targets] == ["unresolved"]


def test_a_change_waits_for_new_names_and_no_longer_than_it_is_told_to() -> None:
    bench = Bench()
    bench.zone = {"A users.internal": hosts("10.0.0.1")}
    live = bench.named(USERS)
    bench.upstreams.prepare(5.0)
    assert urls(live) == ["http://10.0.0.1:8000/base"]
    bench.zone = {"A silent.internal": None}
    bench.upstreams.named("silent", Upstream(targets=(Target(url="http://silent.internal", resolve="a"),)))
    bench.upstreams.prepare(60.0)  # one that has failed is not waited for
    bench.names._look_up = lambda question: gevent.sleep(30)  # type: ignore[assignment]
    bench.upstreams.named("late", Upstream(targets=(Target(url="http://late.internal", resolve="a"),)))
    with gevent.Timeout(10):
        bench.upstreams.prepare(0.05)
