from __future__ import annotations

import gc
import io
import json
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest

from gwproxy.controlplane import replay as module
from gwproxy.controlplane.replay import CANARY, HEADERS, HOST, PREFLIGHT, SPLIT, Change, Logged, Replayed, lines_of, replay, ways
from gwproxy.controlplane.trial import Rehearsal
from gwproxy.http.headers import Headers
from gwproxy.registry import Registry

REGISTRY = Registry.discover()


def built(*routes: dict[str, Any], **document: Any) -> Rehearsal:
    data = json.dumps({"routes": [{"upstream": "http://a", **route} for route in routes], **document}).encode()
    return Rehearsal.of(data, "x.json", REGISTRY, trusted=(), may_reference=lambda name: True, lenient=False, variables={})


def entry(path: str = "/a", method: str = "GET", **fields: Any) -> bytes:
    return json.dumps({"method": method, "path": path, "host": "h", "route": "r", "status": 200, **fields}).encode() + b"\n"


def replayed(before: Rehearsal, after: Rehearsal, *lines: bytes) -> Replayed:
    return replay(lines, before, after)


def only(made: Replayed) -> Change:
    (change,) = made.changes
    return change


A, B = {"id": "a", "path": "/a"}, {"id": "b", "path": "/b", "upstream": "http://b"}


def test_nothing_changes() -> None:
    made = replayed(built(A, B), built(B, A), entry("/a"), entry("/b/x"), entry("/nowhere", route=None, status=404))
    assert (made.requests, made.elsewhere, made.otherwise, made.changes, made.same) == (3, 0, 0, [], True)


@pytest.mark.parametrize(
    ("before", "after", "expected", "targets"),
    [
        ([A, B], [B], ("a", None), (("http://a/a/x",), ())),
        ([B], [A, B], (None, "a"), ((), ("http://a/a/x",))),
        ([A], [A, {"id": "ax", "path": "/a/x", "upstream": "http://c"}], ("a", "ax"), (("http://a/a/x",), ("http://c/a/x",))),
        ([A], [{**A, "upstream": "http://c/base"}], ("a", "a"), (("http://a/a/x",), ("http://c/base/a/x",))),
        ([A], [{**A, "strip_path": True}], ("a", "a"), (("http://a/a/x",), ("http://a/x",))),
        ([A], [{**A, "methods": ["POST"]}], ("a", None), (("http://a/a/x",), ())),
        ([{**A, "hosts": ["h"]}], [{**A, "hosts": ["*.h"]}], ("a", None), (("http://a/a/x",), ())),
        ([A], [{**A, "upstream": "${GW_A}"}], ("a", "a"), (("http://a/a/x",), ("${GW_A}/a/x",))),
    ],
)
def test_what_goes_elsewhere(before: Any, after: Any, expected: Any, targets: Any) -> None:
    made = replayed(built(*before), built(*after), entry("/a/x"), entry("/a/x"), entry("/b"))
    change = only(made) if "b" not in {change.route_before for change in made.changes} else made.changes[0]
    assert ((change.route_before, change.route_after), change.requests, change.elsewhere) == (expected, 2, 2)
    assert (change.targets_before, change.targets_after) == targets
    assert (change.example, made.same) == (Logged("GET", "h", "/a/x"), False)


def limit(**config: Any) -> dict[str, Any]:
    return {"name": "rate_limit", "config": config}


@pytest.mark.parametrize(
    ("before", "after", "differences"),
    [
        ({}, {"timeout": 5}, [("timeout.head", 30.0, 5.0), ("timeout.read", 30.0, 5.0)]),
        ({}, {"preserve_host": True}, [("preserve_host", False, True)]),
        ({"max_body": 5}, {}, [("max_body", 5, None)]),
        ({}, {"plugins": [limit()]}, [("rate_limit", None, "post_auth")]),
        ({"plugins": [limit()]}, {"plugins": []}, [("rate_limit", "post_auth", None)]),
        ({"plugins": [limit(limit=5)]}, {"plugins": [limit(limit=7)]}, [("rate_limit config.limit", 5, 7)]),
        ({"plugins": [limit(), limit(limit=5)]}, {"plugins": [limit(), limit(limit=7)]}, [("rate_limit[1] config.limit", 5, 7)]),
        ({"plugins": [limit()]}, {"plugins": [{**limit(), "mode": "shadow"}]}, [("rate_limit mode", "enforce", "shadow")]),
        ({"plugins": [limit()]}, {"plugins": [{**limit(), "budget": 1}]}, [("rate_limit budget", 5.0, 1.0)]),
        ({"plugins": [limit()]}, {"plugins": [{**limit(), "on_error": "ignore"}]}, [("rate_limit on_error", "fail", "ignore")]),
    ],
)
def test_what_is_treated_otherwise_on_the_same_way(before: Any, after: Any, differences: Any) -> None:
    made = replayed(built({**A, **before}), built({**A, **after}), entry(), entry("/a/b"))
    assert (made.elsewhere, made.otherwise, made.same) == (0, 2, False)
    assert [tuple(difference) for difference in only(made).differences] == differences


def test_a_plugin_in_several_phases_is_told_once_and_priorities_change_the_order() -> None:
    log, cors = {"name": "access_log"}, {"name": "cors"}
    changed = {**log, "priority": 1, "config": {"log_body": True}}
    made = replayed(built({**A, "plugins": [log]}), built({**A, "plugins": [changed]}), entry())
    assert [tuple(d) for d in only(made).differences] == [
        ("access_log priority", 900, 1),
        ("access_log config.log_body", False, True),
    ]
    hook = {"name": "webhook_signature", "config": {"scheme": "github", "secrets": ["s" * 16]}}
    jwt = {"name": "jwt_auth", "config": {"secret": "s" * 32}}
    made = replayed(built({**A, "plugins": [hook, jwt, cors]}), built({**A, "plugins": [{**hook, "priority": 1}, jwt, cors]}), entry())
    assert ("order in auth", ["jwt_auth", "webhook_signature"], ["webhook_signature", "jwt_auth"]) in [
        tuple(d) for d in only(made).differences
    ]


def test_a_secret_that_changes_is_told_of_without_being_told() -> None:
    sides = [built({**A, "plugins": [{"name": "jwt_auth", "config": {"secret": letter * 32}}]}) for letter in "st"]
    made = replayed(*sides, entry())
    assert [tuple(d) for d in only(made).differences] == [("jwt_auth config.secret", "***", "*** (another)")]
    assert "s" * 32 not in json.dumps(made.as_data())
    assert "t" * 32 not in json.dumps(made.as_data())


def test_a_global_plugin_and_one_of_the_route_are_two_things() -> None:
    made = replayed(built(A, plugins=[limit()]), built({**A, "plugins": [limit()]}), entry())
    assert [tuple(d) for d in only(made).differences] == [("rate_limit set", "global", "route")]
    made = replayed(built(A), built(A, plugins=[{"name": "access_log"}]), entry("/x", route=None, status=404))
    assert (only(made).route_before, only(made).differences[0].what) == (None, "access_log")


def test_upstreams_settings_and_weights() -> None:
    def side(**upstream: Any) -> Rehearsal:
        return built({**A, "upstream": "u"}, upstreams={"u": {"targets": [{"url": "http://a"}], **upstream}})

    made = replayed(side(), side(algorithm="random", targets=[{"url": "http://a", "weight": 2}]), entry())
    assert (made.elsewhere, made.otherwise) == (0, 1)
    assert [tuple(d) for d in only(made).differences] == [
        ("upstream.targets", [["http://a", 1]], [["http://a", 2]]),
        ("upstream.algorithm", "round_robin", "random"),
    ]


V2 = {**A, "id": "v2", "headers": {"x-version": "2"}, "upstream": "http://v2"}


@pytest.mark.parametrize(
    ("before", "after", "line", "reason"),
    [
        ([A], [A, V2], entry(), HEADERS),
        ([A, V2], [A], entry(), HEADERS),
        ([A, V2], [A, {**V2, "upstream": "http://v3"}], entry(), HEADERS),
        ([A], [A, {**B, "path": "/a", "hosts": ["h"]}], entry(host=None), HOST),
        ([A], [A, {**B, "path": "/a", "hosts": ["*.h"]}], entry(host=7), HOST),
        ([A], [A, {**B, "path": "/a/x", "methods": ["PUT"]}], entry("/a/x", "OPTIONS"), PREFLIGHT),
    ],
)
def test_what_cannot_be_told_is_not_guessed(before: Any, after: Any, line: bytes, reason: str) -> None:
    made = replayed(built(*before), built(*after), line, line)
    assert (made.unknown, made.changes, made.elsewhere, made.same) == ({reason: 2}, [], 0, False)


@pytest.mark.parametrize(
    ("routes", "line"),
    [
        ([A, V2], entry()),
        ([A, {**B, "path": "/a", "hosts": ["h"]}], entry(host=None)),
        ([{**A, "methods": ["GET"]}, {**A, "id": "p", "methods": ["PUT"], "upstream": "http://p"}], entry(method="OPTIONS")),
    ],
)
def test_what_is_the_same_whatever_the_log_does_not_say_is_the_same(routes: Any, line: bytes) -> None:
    assert replayed(built(*routes), built({**B, "id": "other"}, *routes), line).same


def test_what_was_refused_before_it_was_routed_stays_refused() -> None:
    lines = [entry(route=None, status=status) for status in (400, 405, 408, 414, 417, 431, 501)]
    made = replayed(built(A), built(), *lines, entry("/a/../b"), entry("//a"), entry(status=400), entry("*", "OPTIONS"))
    assert (made.requests, made.unrouted, made.elsewhere) == (11, 8, 2)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"oops\n", "not JSON"),
        (b'{"method": "GET", "pa', "not JSON"),
        (b"\xff\n", "not JSON"),
        (b"[]\n", "no object"),
        (b'{"malformed": "x"}\n', "no method"),
        (b'{"method": "", "path": "/"}\n', "no method"),
        (b'{"method": "GET", "path": 7}\n', "no path"),
    ],
)
def test_malformed_lines_are_counted_and_told(line: bytes, why: str) -> None:
    made = replayed(built(A), built(B), entry(), b"\n", line, entry())
    assert (made.requests, made.malformed, made.why_malformed, made.elsewhere) == (2, 1, [(3, why)], 2)


def test_only_the_first_malformed_lines_are_kept() -> None:
    made = replayed(built(A), built(A), *[b"x\n"] * 50)
    assert (made.malformed, [line for line, _ in made.why_malformed]) == (50, [1, 2, 3, 4, 5])


def test_a_line_without_an_end_takes_no_more_memory_than_the_longest_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 200)
    lines = list(lines_of(io.BytesIO(b"x" * 1000 + b"\n" + entry() + b"y" * 450)))
    assert [len(line) for line in lines] == [200, len(entry()), 200]
    assert replay(lines, built(A), built(A)).why_malformed == [(1, "longer than an entry"), (3, "longer than an entry")]


def test_memory_does_not_grow_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 500)
    before, after = built(A), built({**A, "upstream": "http://c"})
    peaks = []
    for count in (1_500, 9_000):
        gc.collect()
        tracemalloc.start()
        made = replay((entry(f"/a/{number}") for number in range(count)), before, after)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (made.elsewhere, len(made.changes)) == (count, 1)
    assert peaks[1] < peaks[0] + 500_000  # 9,000 that were all remembered take 4 MB


def test_progress_is_told() -> None:
    told: list[int] = []
    replay((entry() for _ in range(3_500)), built(A), built(A), told.append)
    assert told == [1000, 2000, 3000]


def paths() -> Iterable[str]:
    return ("/", "/a", "/a/x", "/a/x/y", "/ax", "/b/1", "/b/1/c", "/v1/x", "/exact", "*")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_ways_and_the_router_agree(method: str) -> None:
    """Where the log says all, the one way is what a worker would take."""
    side = built(
        *(A, B, {"id": "t", "path": "/b/{id}", "methods": ["GET"]}, {"id": "e", "path": "=/exact", "hosts": ["h.example"]}),
        *({"id": "r", "path": "~^/v[0-9]+/", "hosts": ["*.example"]}, {"id": "p", "path": "/a/x", "methods": ["POST"], "priority": 1}),
    )
    for host in ("", "h.example", "other"):
        for path in paths():
            (way,) = ways(side, Logged(method, host, path))
            match = side.snapshot.router.match(host, path, method, Headers())
            assert (way.entry and way.entry.route) is (match and match.route)


def shared(weights: dict[str, int], sticky: str | None = None, **route: Any) -> dict[str, Any]:
    return {**A, "split": {"weights": weights, "sticky": sticky}, **route}


HALF = {"http://a": 1, "http://b": 1}
USERS = [entry(user_id=f"u{number}", client_ip="192.0.2.1") for number in range(40)]
CLIENTS = [entry(client_ip=f"192.0.2.{number}") for number in range(40)]


@pytest.mark.parametrize(("sticky", "lines"), [("user", USERS), ("user", CLIENTS), ("client", CLIENTS)])
def test_of_a_split_by_user_or_address_it_is_known_who_goes_where(sticky: str, lines: list[bytes]) -> None:
    before, after = built(shared(HALF, sticky)), built(shared({**HALF, "http://a": 0}, sticky))
    made = replayed(before, after, *lines)
    change = only(made)
    assert 8 <= made.elsewhere <= 32, "those that were with a"
    assert (made.unknown.total(), change.requests) == (0, 40)
    assert (change.targets_before, change.targets_after) == (("http://a/a",), ("http://b/a",))
    assert [difference.what for difference in change.differences] == ["split.weights"]
    assert replayed(before, built(shared(HALF, sticky)), *lines).same


@pytest.mark.parametrize("sticky", [None, "cookie:side", "header:X-Tenant"])
def test_of_a_split_by_what_is_not_logged_it_cannot_be_told(sticky: str | None) -> None:
    before = built(shared(HALF, sticky))
    assert replayed(before, built(shared(HALF, sticky)), entry()).same
    assert replayed(before, built(shared({**HALF, "http://b": 2}, sticky)), entry()).unknown == {SPLIT: 1}
    assert replayed(before, built(A), entry()).unknown == {SPLIT: 1}
    gone = replayed(before, built({**A, "upstream": "http://c"}), entry())
    assert (gone.elsewhere, gone.unknown.total()) == (1, 0), "whichever it was, it is another"
    assert only(gone).targets_before == ("http://a/a", "http://b/a")


def test_of_a_canary_it_cannot_be_told_who_asks_for_it() -> None:
    with_canary = {**A, "canary": {"upstream": "http://b", "header": "X-Canary"}}
    before = built(with_canary)
    assert replayed(before, built(with_canary), entry()).same
    assert replayed(built(A), before, entry()).unknown == {CANARY: 1}
    assert replayed(before, built({**with_canary, "canary": {"upstream": "http://b", "cookie": "beta"}}), entry()).unknown == {CANARY: 1}
    assert replayed(before, built({**with_canary, "canary": {"upstream": "http://c", "header": "X-Canary"}}), entry()).unknown == {
        CANARY: 1
    }


def test_a_mirror_moves_nothing_and_is_told() -> None:
    made = replayed(built(A), built({**A, "mirror": {"upstream": "http://c"}}), entry())
    assert (made.elsewhere, made.otherwise) == (0, 1)
    assert [difference.what for difference in only(made).differences] == ["mirror"]


def test_what_differs_in_another_upstream_of_a_route_is_told() -> None:
    def side(**new: Any) -> Rehearsal:
        upstreams = {"old": {"targets": [{"url": "http://a"}]}, "new": {"targets": [{"url": "http://b"}], **new}}
        return built({**A, "upstream": "old", "mirror": {"upstream": "new"}}, upstreams=upstreams)

    made = replayed(side(), side(keepalive=False, targets=[{"url": "http://b", "weight": 2}]), entry())
    assert (made.elsewhere, made.otherwise) == (0, 1)
    assert [difference.what for difference in only(made).differences] == ["upstreams.new.targets", "upstreams.new.keepalive"]
