"""What runs in a phase, and what happens when it misbehaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from gevent import GreenletExit

from gwproxy import Context, PluginConfig, Request, Response, StoreUnavailable
from gwproxy.context import Outcome
from gwproxy.dataplane import chain
from gwproxy.dataplane.entry_breaker import EntryBreaker
from gwproxy.dataplane.step import Step
from gwproxy.dataplane.waits import Timed
from gwproxy.errors import Aborted, BudgetExceeded, ClientGone, HttpError, PayloadTooLarge, RequestTimeout
from gwproxy.model import PluginBreaker
from gwproxy.plugin import Entry
from gwproxy.tally import Tally

CONFIG = PluginConfig()


def step(function: Callable[[Context], object], **options: object) -> Step:
    options.setdefault("plugin", "probe")
    options.setdefault("phase", "post_auth")
    return Step(lambda ctx, config: function(ctx), CONFIG, **options)  # type: ignore[arg-type]


def fail(error: BaseException) -> Callable[[Context], object]:
    def raises(ctx: Context) -> None:
        raise error

    return raises


@pytest.fixture
def ctx() -> Context:
    return Context(Request("GET", "/x"))


def test_steps_run_in_order_and_an_abort_stops_them(ctx: Context) -> None:
    seen: list[int] = []
    steps = (step(lambda c: seen.append(1)), step(lambda c: c.abort(403, {"error": "Forbidden"})), step(lambda c: seen.append(2)))
    with pytest.raises(Aborted) as aborted:
        chain.run(steps, ctx)
    assert seen == [1]
    assert chain.response_of(aborted.value).get_data() == b'{"error":"Forbidden"}'


@pytest.mark.parametrize("swallowed", [Exception, BaseException])
def test_an_abort_cannot_be_swallowed_by_the_plugin(ctx: Context, swallowed: type[BaseException]) -> None:
    def swallows(c: Context) -> None:
        with contextlib.suppress(swallowed):
            c.abort(403)

    with pytest.raises(Aborted):
        chain.run((step(swallows),), ctx)


RAISED = [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), GreenletExit(), MemoryError(), BaseException("x")]


@pytest.mark.parametrize("error", RAISED)
def test_X01_whatever_a_plugin_raises_is_500(ctx: Context, error: BaseException) -> None:
    with pytest.raises(HttpError) as raised:
        chain.run((step(fail(error)),), ctx)
    assert raised.value.status == 500
    assert "x" not in raised.value.text


@pytest.mark.parametrize(
    "returned", [True, False, 403, {"error": "Forbidden"}, Response(403)], ids=["yes", "no", "status", "body", "response"]
)
def test_X10_a_hook_that_returns_something_did_not_mean_to_go_on(ctx: Context, returned: object, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(HttpError) as raised:
        chain.run((step(lambda c: returned),), ctx)
    assert raised.value.status == 500
    assert f"a hook returns None, not {type(returned).__name__}" in caplog.text


def test_a_needed_store_that_is_away_is_503_with_retry_after(ctx: Context) -> None:
    with pytest.raises(HttpError) as raised:
        chain.run((step(fail(StoreUnavailable("away"))),), ctx)
    assert raised.value.status == 503
    assert dict(raised.value.headers)["Retry-After"] == "1"


def test_a_body_that_is_too_large_for_a_plugin_is_413(ctx: Context) -> None:
    with pytest.raises(PayloadTooLarge):
        chain.run((step(fail(PayloadTooLarge("over"))),), ctx)


def test_budget_exceeded_is_500(ctx: Context) -> None:
    with pytest.raises(HttpError) as raised:
        chain.run((step(fail(BudgetExceeded("late"))),), ctx)
    assert raised.value.status == 500


@pytest.mark.parametrize("error", [ValueError("x"), StoreUnavailable("away"), PayloadTooLarge("over"), BudgetExceeded("late")])
def test_on_error_ignore_goes_on(ctx: Context, error: BaseException) -> None:
    seen: list[int] = []
    chain.run((step(fail(error), on_error="ignore"), step(lambda c: seen.append(1))), ctx)
    assert seen == [1]


@pytest.mark.parametrize("error", [ClientGone("left"), RequestTimeout("slow")])
def test_on_error_ignore_does_not_hide_a_broken_connection(ctx: Context, error: Exception) -> None:
    with pytest.raises(type(error)):
        chain.run((step(fail(error), on_error="ignore"),), ctx)


def test_on_error_ignore_does_not_hide_an_abort(ctx: Context) -> None:
    with pytest.raises(Aborted):
        chain.run((step(lambda c: c.abort(403), on_error="ignore"),), ctx)


def test_auth_without_enforcing_plugins_lets_pass(ctx: Context) -> None:
    chain.run_auth((), ctx)


def test_auth_is_401_if_nobody_authenticated(ctx: Context) -> None:
    with pytest.raises(HttpError) as raised:
        chain.run_auth((step(lambda c: None), step(lambda c: None)), ctx)
    assert (raised.value.status, raised.value.text) == (401, "Authentication required")


def test_auth_is_401_also_if_the_only_plugin_crashed_and_is_ignored(ctx: Context) -> None:
    with pytest.raises(HttpError) as raised:
        chain.run_auth((step(fail(ValueError("x")), on_error="ignore"),), ctx)
    assert raised.value.status == 401


def test_auth_state_alone_does_not_authenticate(ctx: Context) -> None:
    with pytest.raises(HttpError):
        chain.run_auth((step(lambda c: c.state.update(authenticated=True, user_id="eve")),), ctx)


def test_the_first_plugin_that_authenticates_ends_the_asking(ctx: Context) -> None:
    seen: list[str] = []
    steps = (step(lambda c: seen.append("a")), step(lambda c: c.authenticate("ada")), step(lambda c: c.abort(401)))
    chain.run_auth(steps, ctx)
    assert ctx.state == {"user_id": "ada", "authenticated": True}
    assert seen == ["a"]


def test_a_shadow_plugin_neither_authenticates_nor_requires_it(ctx: Context) -> None:
    chain.run_auth((step(lambda c: c.authenticate("ada"), shadow=True),), ctx)
    assert "user_id" not in ctx.state
    assert [s.action for s in ctx.shadowed] == ["authenticate"]
    with pytest.raises(HttpError):
        chain.run_auth((step(lambda c: c.authenticate("ada"), shadow=True), step(lambda c: None)), ctx)


def test_shadow_records_and_discards(ctx: Context) -> None:
    ctx.response = Response(200, body=b"kept")

    def changes(c: Context) -> None:
        c.request.headers["X-New"] = "1"
        c.response_headers["X-Out"] = "1"
        c.response.set_data(b"changed")
        c.on_finish(lambda outcome: None)
        c.state["x"] = 1

    chain.run((step(changes, shadow=True), step(lambda c: c.abort(403), shadow=True), step(fail(ValueError()), shadow=True)), ctx)
    assert "X-New" not in ctx.request.headers
    assert len(ctx.response_headers) == 0
    assert ctx.response.get_data() == b"kept"
    assert ctx.finishers == []
    assert ctx.state == {}
    assert [(s.action, s.detail) for s in ctx.shadowed] == [
        ("change", "request.headers, response.body, response_headers"),
        ("abort", "403"),
        ("error", "HttpError"),
    ]


def test_every_response_step_runs_whatever_the_others_do(ctx: Context) -> None:
    ctx.response = Response(200, body=b"ok")
    ctx.response_headers["X-Kept"] = "1"
    seen: list[int] = []
    steps = (
        step(fail(ValueError("x")), phase="response", on_error="ignore"),
        step(lambda c: c.abort(418, "teapot"), phase="response"),
        step(lambda c: seen.append(c.response.status), phase="response"),
        step(fail(ValueError("x")), phase="response"),
        step(lambda c: seen.append(c.response.status), phase="response"),
    )
    chain.run_response(steps, ctx)
    assert seen == [418, 500]
    assert ctx.response.get_data() == b'{"error":"Internal Server Error"}'
    assert ctx.response.headers["X-Kept"] == "1"


@pytest.mark.parametrize(("status", "body"), [(200, object()), (42, None), (700, None)])
def test_an_abort_that_cannot_be_sent_is_500(status: int, body: object) -> None:
    assert chain.response_of(Aborted(status, body)).status == 500


@pytest.mark.parametrize(
    ("body", "data", "kind"),
    [
        (None, b"", None),
        ("text", b"text", "text/plain; charset=utf-8"),
        (b"\0\1", b"\0\1", "application/octet-stream"),
        ([1, {"a": None}], b'[1,{"a":null}]', "application/json"),
    ],
)
def test_what_a_plugin_may_give_as_a_body(body: object, data: bytes, kind: str | None) -> None:
    response = chain.response_of(Aborted(200, body))
    assert response.get_data() == data
    assert response.headers.get("Content-Type") == kind


# ---- what is measured, and what is switched off


def guarded(function: Callable[[Context], object], **options: object) -> tuple[Step, EntryBreaker]:
    rules = PluginBreaker(failures=2, window=60, open_for=60)
    breaker = EntryBreaker(("probe", "1", Entry(route="r")), rules, Tally())
    return step(function, breaker=breaker, **options), breaker


def attempt(run: Callable[..., None], steps: tuple[Step, ...], ctx: Context) -> int:
    """Return the status that a phase has come to; 0: the request goes on."""
    try:
        run(steps, ctx)
    except Aborted as aborted:
        ctx._aborted = None
        return aborted.status
    except HttpError as error:
        return error.status
    return 0


@pytest.mark.parametrize(
    ("error", "statuses"),
    [
        pytest.param(ValueError("x"), [500, 500, 0], id="raised"),
        pytest.param(BudgetExceeded("late"), [500, 500, 0], id="waited"),
        pytest.param(StoreUnavailable("away"), [503, 503, 503], id="the-store-is-no-fault-of-its-own"),
        pytest.param(PayloadTooLarge("over"), [413, 413, 413], id="nor-is-the-client"),
        pytest.param(Aborted(403, None), [403, 403, 403], id="nor-is-an-abort-a-failure"),
    ],
)
def test_disable_switches_off_after_so_many_failures(ctx: Context, error: BaseException, statuses: list[int]) -> None:
    one, _ = guarded(fail(error), on_error="disable")
    assert [attempt(chain.run, (one,), ctx) for _ in range(3)] == statuses


@pytest.mark.parametrize("on_error", ["fail", "ignore"])
def test_failures_alone_switch_nothing_off_otherwise(ctx: Context, on_error: str) -> None:
    one, breaker = guarded(fail(ValueError("x")), on_error=on_error)
    assert {attempt(chain.run, (one,), ctx) for _ in range(5)} == {500 if on_error == "fail" else 0}
    assert breaker.off_until == 0.0


@pytest.mark.parametrize(("on_error", "status"), [("fail", 503), ("ignore", 0), ("disable", 0)])
def test_running_over_the_budget_switches_off_whatever_on_error_is(ctx: Context, on_error: str, status: int) -> None:
    ctx._timed = Timed(lambda: None)  # else nobody knows whether it ran or waited
    one, _ = guarded(lambda c: None, on_error=on_error, budget=1e-9)
    assert [attempt(chain.run, (one,), ctx) for _ in range(3)] == [0, 0, status]
    assert (one.measure.over_budget, one.measure.errors) == ({"ran": 2}, {})
    assert one.measure.decisions == {"skipped": 1}


def test_in_response_disable_is_only_logged(ctx: Context) -> None:
    ctx.response = Response(200)
    one, breaker = guarded(fail(ValueError("x")), on_error="disable", phase="response")
    for _ in range(3):
        chain.run_response((one,), ctx)
    assert ctx.response.status == 200
    assert breaker.off_until
    assert one.measure.spent.count == 2


@pytest.mark.parametrize("on_error", ["fail", "ignore", "disable"])
def test_in_auth_what_is_switched_off_lets_nobody_in(ctx: Context, on_error: str) -> None:
    one, breaker = guarded(lambda c: c.authenticate("ada"), on_error=on_error, phase="auth")
    for _ in range(2):
        breaker.failed("auth", "raised", 0)
    with pytest.raises(HttpError) as refused:
        chain.run_auth((one,), ctx)
    assert (refused.value.status, dict(refused.value.headers)) == (503, {"Retry-After": "60"})


def test_in_auth_others_are_still_asked(ctx: Context) -> None:
    one, breaker = guarded(lambda c: None, on_error="disable", phase="auth")
    for _ in range(2):
        breaker.failed("auth", "raised", 0)
    other = step(lambda c: c.authenticate("ada"), phase="auth")
    chain.run_auth((one, other), ctx)
    assert other.measure.decisions == {"authenticated": 1}


def test_every_hook_is_measured_with_what_it_came_to(ctx: Context) -> None:
    steps = {error: step(fail(error), on_error="ignore") for error in (ValueError("x"), StoreUnavailable("x"), BudgetExceeded("x"))}
    chain.run((*steps.values(), passing := step(lambda c: None)), ctx)
    assert [one.measure.errors for one in steps.values()] == [{"raised": 1}, {"store_away": 1}, {"over_budget": 1}]
    assert [one.measure.spent.count for one in (*steps.values(), passing)] == [1, 1, 1, 1]
    swallowing = step(lambda c: contextlib.suppress(BaseException).__enter__() or c.abort(429))
    assert attempt(chain.run, (swallowing,), ctx) == 429
    assert swallowing.measure.decisions == {"aborted_4xx": 1}


def test_what_is_left_for_the_end_is_measured_as_a_phase_of_its_own(ctx: Context) -> None:
    one, breaker = guarded(lambda c: c.on_finish(lambda outcome: 1 / 0), on_error="disable")
    for _ in range(2):
        ctx.finishers.clear()
        ctx._finisher_steps.clear()
        chain.run((one,), ctx)
        chain.finish(ctx, Outcome(200, 0, 0, 0.1, True))
    assert (one.finishing.errors, one.measure.errors) == ({"raised": 2}, {})
    assert breaker.off_until


SHADOWED = [
    pytest.param(lambda c: c.abort(403), {"would_block_4xx": 1}, id="abort"),
    pytest.param(fail(ValueError("x")), {"would_block_5xx": 1}, id="crash"),
    pytest.param(fail(StoreUnavailable("x")), {"would_block_5xx": 1}, id="store"),
    pytest.param(fail(PayloadTooLarge("x")), {"would_block_4xx": 1}, id="too-large"),
    pytest.param(lambda c: c.request.headers.add("X-A", "1"), {"would_change": 1}, id="change"),
    pytest.param(lambda c: None, {}, id="nothing"),
]


@pytest.mark.parametrize(("function", "decisions"), SHADOWED)
def test_what_shadow_mode_discards_is_counted(ctx: Context, function: Callable[[Context], object], decisions: dict[str, int]) -> None:
    one = step(function, shadow=True)
    chain.run((one,), ctx)
    assert one.measure.decisions == decisions


def test_what_would_not_have_been_authenticated_would_have_been_refused(ctx: Context) -> None:
    silent, knowing = step(lambda c: None, shadow=True, phase="auth"), step(lambda c: c.authenticate("ada"), shadow=True, phase="auth")
    chain.run_auth((silent, knowing), ctx)
    assert silent.measure.decisions == {}
    chain.run_auth((silent,), ctx)
    assert silent.measure.decisions == {"would_block_4xx": 1}
    assert [(s.action, s.detail) for s in ctx.shadowed] == [("authenticate", ""), ("abort", "401")]


def test_what_would_have_ended_the_request_already_is_counted_once(ctx: Context) -> None:
    one = step(lambda c: c.abort(401), shadow=True, phase="auth")
    chain.run_auth((one,), ctx)
    assert one.measure.decisions == {"would_block_4xx": 1}


def test_in_shadow_mode_what_is_switched_off_is_only_skipped(ctx: Context) -> None:
    one, breaker = guarded(fail(ValueError("x")), shadow=True)
    for _ in range(2):
        breaker.failed("post_auth", "over_budget", 0)
    chain.run((one,), ctx)
    assert (one.measure.decisions, ctx.shadowed) == ({"skipped": 1}, [])
