"""What runs in a phase, and what happens when it misbehaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from gevent import GreenletExit

from gwproxy import Context, PluginConfig, Request, Response, StoreUnavailable
from gwproxy.dataplane import chain
from gwproxy.dataplane.chain import Step
from gwproxy.errors import Aborted, BudgetExceeded, ClientGone, HttpError, PayloadTooLarge, RequestTimeout

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
    chain.run((step(fail(error), ignore=True), step(lambda c: seen.append(1))), ctx)
    assert seen == [1]


@pytest.mark.parametrize("error", [ClientGone("left"), RequestTimeout("slow")])
def test_on_error_ignore_does_not_hide_a_broken_connection(ctx: Context, error: Exception) -> None:
    with pytest.raises(type(error)):
        chain.run((step(fail(error), ignore=True),), ctx)


def test_on_error_ignore_does_not_hide_an_abort(ctx: Context) -> None:
    with pytest.raises(Aborted):
        chain.run((step(lambda c: c.abort(403), ignore=True),), ctx)


def test_auth_without_enforcing_plugins_lets_pass(ctx: Context) -> None:
    chain.run_auth((), ctx)


def test_auth_is_401_if_nobody_authenticated(ctx: Context) -> None:
    with pytest.raises(HttpError) as raised:
        chain.run_auth((step(lambda c: None), step(lambda c: None)), ctx)
    assert (raised.value.status, raised.value.text) == (401, "Authentication required")


def test_auth_is_401_also_if_the_only_plugin_crashed_and_is_ignored(ctx: Context) -> None:
    with pytest.raises(HttpError) as raised:
        chain.run_auth((step(fail(ValueError("x")), ignore=True),), ctx)
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
        step(fail(ValueError("x")), phase="response", ignore=True),
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
