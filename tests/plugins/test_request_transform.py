"""Changes to a request before it is forwarded: headers and the path."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gwproxy import Context, Headers, Request, Route, Timeouts
from gwproxy.context import UpstreamChoice
from gwproxy.errors import Aborted
from gwproxy.plugins.request_transform import RequestTransform, RequestTransformConfig


def context(*fields: tuple[str, str], target: str = "/users/7/orders?a=%2F&b=1", **params: str) -> Context:
    request = Request("GET", "/users/7/orders", "a=%2F&b=1", Headers(fields))
    return Context(request, params=params, upstream=UpstreamChoice("http://10.0.0.5:8000", target, Timeouts()))


def transformed(ctx: Context, **config: object) -> Context:
    RequestTransform().pre_proxy(ctx, RequestTransformConfig(**config))  # type: ignore[arg-type]
    return ctx


def test_add_headers_replaces_what_the_client_sent() -> None:
    ctx = transformed(context(("x-team", "a"), ("X-Team", "b"), ("Accept", "*/*")), add_headers={"X-Team": "core"})
    assert ctx.request.headers.items() == [("Accept", "*/*"), ("X-Team", "core")]


def test_remove_headers_removes_every_line_in_any_case() -> None:
    ctx = transformed(context(("Cookie", "a"), ("cookie", "b"), ("Accept", "*/*")), remove_headers=("COOKIE", "X-Absent"))
    assert ctx.request.headers.items() == [("Accept", "*/*")]


def test_rewrite_path_replaces_the_whole_path_and_keeps_the_query() -> None:
    ctx = transformed(context(), rewrite_path="/v2/all")
    assert ctx.upstream is not None
    assert ctx.upstream.url == "http://10.0.0.5:8000/v2/all?a=%2F&b=1"
    assert ctx.request.path == "/users/7/orders"


def test_rewrite_path_replaces_the_path_of_the_upstream_too() -> None:
    ctx = transformed(context(target="/base/users/7"), rewrite_path="/v2")
    assert ctx.upstream is not None
    assert ctx.upstream.url == "http://10.0.0.5:8000/v2"


def test_an_empty_query_stays_empty() -> None:
    ctx = transformed(context(target="/x?"), rewrite_path="/y")
    assert ctx.upstream is not None
    assert ctx.upstream.url == "http://10.0.0.5:8000/y?"


def test_template_parameters_stand_as_they_came() -> None:
    ctx = transformed(context(id="a%2Fb", order_2="7"), rewrite_path="/v2/{id}/x-{order_2}")
    assert ctx.upstream is not None
    assert ctx.upstream.url == "http://10.0.0.5:8000/v2/a%2Fb/x-7?a=%2F&b=1"


def test_a_value_with_braces_is_not_expanded_again() -> None:
    ctx = transformed(context(id="{secret}", secret="s"), rewrite_path="/v2/{id}")
    assert ctx.upstream is not None
    assert "/v2/{secret}?" in ctx.upstream.url


def test_an_unknown_parameter_is_an_error_of_the_plugin() -> None:
    with pytest.raises(KeyError, match="id"):
        transformed(context(), rewrite_path="/v2/{id}")


@pytest.mark.parametrize("params", [{"a": ".", "b": "."}, {"a": "", "b": ""}, {"a": "", "b": "."}])
def test_N16_parameters_cannot_make_a_step_up_together(params: dict[str, str]) -> None:
    ctx = context(**params)
    with pytest.raises(Aborted) as aborted:
        transformed(ctx, rewrite_path="/v2/{a}{b}/x")
    assert (aborted.value.status, aborted.value.body) == (400, {"error": "Bad Request"})
    assert ctx.upstream is not None
    assert ctx.upstream.url.startswith("http://10.0.0.5:8000/users/")


def test_nothing_configured_changes_nothing() -> None:
    ctx = transformed(context(("Accept", "*/*")))
    assert ctx.request.headers.items() == [("Accept", "*/*")]
    assert ctx.upstream is not None
    assert ctx.upstream.url == "http://10.0.0.5:8000/users/7/orders?a=%2F&b=1"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "a\x7fb", "sn\u2603w"])
def test_G22_control_characters_in_a_value_are_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="line break") as refused:
        RequestTransformConfig(add_headers={"X-A": value})
    assert value not in str(refused.value)


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X\r\nY", "Ümlaut"])
def test_what_is_no_header_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="a header name"):
        RequestTransformConfig(add_headers={name: "1"})
    with pytest.raises(ValidationError, match="a header name"):
        RequestTransformConfig(remove_headers=(name,))


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "Connection", "TE", "Upgrade", "X-User-Id", "X-Consumer", "X-Consumer-Groups"]
)
def test_what_the_gateway_decides_on_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="gateway does not set itself"):
        RequestTransformConfig(add_headers={name: "1"})
    with pytest.raises(ValidationError, match="gateway does not set itself"):
        RequestTransformConfig(remove_headers=(name,))


def test_one_header_in_two_spellings_is_refused() -> None:
    with pytest.raises(ValidationError, match="each header once"):
        RequestTransformConfig(add_headers={"X-A": "1", "x-a": "2"})


def test_a_header_added_and_removed_is_refused() -> None:
    with pytest.raises(ValidationError, match="x-a in add_headers or in remove_headers, not in both"):
        RequestTransformConfig(add_headers={"X-A": "1"}, remove_headers=("x-a",))


@pytest.mark.parametrize(
    "template",
    ["/{0.__class__}", "/{id.__class__}", "/{id[0]}", "/{id!r}", "/{id:>9}", "/{}", "/{0}", "/{id", "/id}", "/{{id}}", "/{i d}", "/{1a}"],
)
def test_G23_only_plain_names_may_stand_in_braces(template: str) -> None:
    with pytest.raises(ValidationError, match="names alone in braces"):
        RequestTransformConfig(rewrite_path=template)


@pytest.mark.parametrize(
    "path",
    [
        "users",
        "http://evil.example/",
        "//evil.example",
        "/a//b",
        "/a/../b",
        "/a/.",
        "/a/./b",
        "/..",
        "/a?b=1",
        "/a#b",
        "/a b",
        "/a\\b",
        "/a\r\nb",
        "/a%zz",
        "/a%2",
        "/a%41",
        "/%2e%2e/b",
        "/a%5Cb",
        "/a%0d%0a",
        "/a%7f",
        "/ü",
        "",
    ],
)
def test_what_is_no_canonical_path_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        RequestTransformConfig(rewrite_path=path)


@pytest.mark.parametrize("path", ["/", "/a/", "/a%2Fb", "/a:b;c=1/@d", "/{id}", "/{id}.json", "/a.b/...", "/a/{_x}-{Y9}"])
def test_a_canonical_path_is_accepted(path: str) -> None:
    assert RequestTransformConfig(rewrite_path=path).rewrite_path == path


def test_the_names_of_the_sketch_are_aliases_and_survive_a_round_trip() -> None:
    text = '{"addHeaders": {"X-A": "1"}, "removeHeaders": ["Cookie"], "rewritePath": "/v2/{id}"}'
    config = RequestTransformConfig.model_validate_json(text)
    assert (dict(config.add_headers), config.remove_headers, config.rewrite_path) == ({"X-A": "1"}, ("Cookie",), "/v2/{id}")
    assert RequestTransformConfig.model_validate_json(config.model_dump_json()) == config


def test_X06_the_configuration_cannot_be_changed() -> None:
    config = RequestTransformConfig(add_headers={"X-A": "1"})
    with pytest.raises(TypeError):
        config.add_headers["X-B"] = "2"


@pytest.mark.parametrize(
    ("path", "params", "expected"),
    [
        ("/v2/{id}/{user}", {"id"}, "in rewrite_path, one of id; not {user}"),
        ("/v2/{id}", set(), "in rewrite_path, none, for its path has no parameter; not {id}"),
    ],
)
def test_G23_a_parameter_that_the_route_lacks_is_refused(path: str, params: set[str], expected: str) -> None:
    config = RequestTransformConfig(rewrite_path=path)
    with pytest.raises(ValueError, match=expected.replace("{", r"\{")):
        config.check_route(Route(path="/", upstream="http://10.0.0.5"), params)
    config.check_route(Route(path="/", upstream="http://10.0.0.5"), {"id", "user"})
