"""CORS: what a browser is told, on answers, refusals and preflights (rows C01 to C10)."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gwproxy import Context, Headers, Request, Response
from gwproxy.errors import Aborted
from gwproxy.plugins.cors import Cors, CorsConfig

APP = "https://app.example.com"
LISTED = CorsConfig(origins=(APP, "https://*.example.org"))


def context(*fields: tuple[str, str], method: str = "GET") -> Context:
    return Context(Request(method, "/api", headers=Headers(fields)))


def answered(ctx: Context, config: CorsConfig, *upstream: tuple[str, str]) -> Headers:
    """Pass through the plugin and return what leaves, as the gateway puts it together."""
    Cors().pre_auth(ctx, config)
    ctx.response = Response(200, Headers(upstream), upstream=True)
    return leaving(ctx, config)


def leaving(ctx: Context, config: CorsConfig) -> Headers:
    assert ctx.response is not None
    Cors().response(ctx, config)
    ctx.response.headers.update(ctx.response_headers)
    return ctx.response.headers


def preflight(config: CorsConfig, origin: str, method: str = "POST", headers: str = "", **more: str) -> Headers:
    fields = [("Origin", origin), ("Access-Control-Request-Method", method), *((k.replace("_", "-"), v) for k, v in more.items())]
    if headers:
        fields.append(("Access-Control-Request-Headers", headers))
    ctx = context(*fields, method="OPTIONS")
    with pytest.raises(Aborted) as aborted:
        Cors().pre_auth(ctx, config)
    assert (aborted.value.status, aborted.value.body) == (204, None)
    ctx.response = Response(204, ctx.response_headers.copy())
    return leaving(ctx, config)


def granted(headers: Headers) -> list[str]:
    return sorted(name for name in headers if name.lower().startswith("access-control-"))


def test_the_default_lets_everybody_read() -> None:
    headers = answered(context(("Origin", APP)), CorsConfig())
    assert headers.getlist("Access-Control-Allow-Origin") == ["*"]
    assert "Vary" not in headers


def test_the_default_does_not_depend_on_the_request() -> None:
    assert answered(context(), CorsConfig())["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("origin", [APP, "https://a.example.org", "https://a.b.example.org"])
def test_C04_an_allowed_origin_is_echoed_exactly(origin: str) -> None:
    headers = answered(context(("Origin", origin)), LISTED)
    assert headers.getlist("Access-Control-Allow-Origin") == [origin]
    assert headers["Vary"] == "Origin"


@pytest.mark.parametrize("fields", [(), (("Origin", "https://evil.example"),)])
def test_C04_vary_also_without_a_grant(fields: tuple[tuple[str, str], ...]) -> None:
    headers = answered(context(*fields), LISTED)
    assert headers["Vary"] == "Origin"
    assert granted(headers) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("Accept-Encoding",), "Accept-Encoding, Origin"),
        (("Accept", "Cookie"), "Accept, Cookie, Origin"),
        (("Accept, ORIGIN",), "Accept, ORIGIN"),
        (("*",), "*"),
    ],
)
def test_C04_vary_of_the_upstream_is_kept(before: tuple[str, ...], after: str) -> None:
    headers = answered(context(("Origin", APP)), LISTED, *(("Vary", value) for value in before))
    assert ", ".join(headers.getlist("Vary")) == after


def test_C04_vary_is_merged_into_what_another_plugin_sets() -> None:
    ctx = context(("Origin", APP))
    ctx.response_headers["Vary"] = "Accept-Language"
    assert answered(ctx, LISTED).getlist("Vary") == ["Accept-Language, Origin"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com.evil.io",
        "https://evil-app.example.com",
        "https://appXexample.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://APP.example.com",
        "https://example.org",
        "https://evilexample.org",
        "https://evil.io/.example.org",
        "https://evil.io#.example.org",
        "https://a.example.org.evil.io",
        "https://a.example.org:444",
        "http://a.example.org",
    ],
)
def test_C02_a_similar_origin_gets_nothing(origin: str) -> None:
    assert granted(answered(context(("Origin", origin)), LISTED)) == []
    assert granted(preflight(LISTED, origin)) == []


def test_C01_null_only_if_it_is_listed() -> None:
    assert granted(answered(context(("Origin", "null")), LISTED)) == []
    listed = CorsConfig(origins=("null",))
    assert answered(context(("Origin", "null")), listed)["Access-Control-Allow-Origin"] == "null"


def test_C05_cors_headers_of_the_upstream_are_replaced() -> None:
    upstream = (("Access-Control-Allow-Origin", "*"), ("access-control-allow-origin", "https://b"), ("Access-Control-Max-Age", "9"))
    headers = answered(context(("Origin", APP)), LISTED, *upstream)
    assert headers.getlist("Access-Control-Allow-Origin") == [APP]
    assert granted(headers) == ["Access-Control-Allow-Origin"]


def test_C05_cors_headers_of_the_upstream_go_without_a_grant() -> None:
    upstream = (("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Credentials", "true"), ("X-Kept", "1"))
    headers = answered(context(("Origin", "https://evil.example")), LISTED, *upstream)
    assert granted(headers) == []
    assert headers["X-Kept"] == "1"


@pytest.mark.parametrize("status", [401, 429, 502, 504])
def test_C06_refusals_carry_the_grant(status: int) -> None:
    ctx = context(("Origin", APP))
    Cors().pre_auth(ctx, LISTED)
    ctx.response = Response.error(status)
    headers = leaving(ctx, LISTED)
    assert headers["Access-Control-Allow-Origin"] == APP
    assert headers["Vary"] == "Origin"


def test_C06_a_request_that_matched_no_route_carries_the_grant() -> None:
    ctx = context(("Origin", APP))
    ctx.response = Response.error(404)
    assert leaving(ctx, LISTED)["Access-Control-Allow-Origin"] == APP


def test_the_origin_is_decided_on_before_other_plugins_change_the_request() -> None:
    ctx = context(("Origin", APP))
    Cors().pre_auth(ctx, LISTED)
    ctx.request.headers.remove("Origin")
    ctx.response = Response(200)
    assert leaving(ctx, LISTED)["Access-Control-Allow-Origin"] == APP


def test_a_preflight_is_told_everything() -> None:
    config = CorsConfig(origins=(APP,), allow_credentials=True, max_age=600, expose_headers=("X-Total",))
    headers = preflight(config, APP, "DELETE", "content-type, authorization")
    assert dict(headers.items()) == {
        "Access-Control-Allow-Origin": APP,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
        "Access-Control-Allow-Headers": "Content-Type, Authorization",
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }


def test_a_simple_answer_tells_what_may_be_read() -> None:
    config = CorsConfig(origins=(APP,), allow_credentials=True, expose_headers=("X-Total", "X-Page"))
    headers = answered(context(("Origin", APP)), config)
    assert headers["Access-Control-Expose-Headers"] == "X-Total, X-Page"
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert "Access-Control-Allow-Methods" not in headers


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_preflight_may_ask_for_a_method_that_is_listed(method: str) -> None:
    assert "Access-Control-Allow-Origin" in preflight(CorsConfig(), APP, method)


@pytest.mark.parametrize(
    ("origin", "method", "headers"),
    [
        (APP, "PATCH", ""),
        (APP, "delete", ""),
        (APP, "POST", "X-Secret"),
        (APP, "POST", "Content-Type, X-Secret"),
        ("https://evil.example", "POST", ""),
    ],
)
def test_C08_a_preflight_for_more_than_allowed_ends_without_the_grant(origin: str, method: str, headers: str) -> None:
    assert granted(preflight(LISTED, origin, method, headers)) == []


def test_C08_nothing_is_granted_to_anybody_either() -> None:
    assert granted(preflight(CorsConfig(), APP, "PATCH")) == []


def test_wildcards_grant_any_method_and_header() -> None:
    config = CorsConfig(methods=("*",), headers=("*",))
    headers = preflight(config, APP, "PURGE", "X-One, X-Two")
    assert (headers["Access-Control-Allow-Methods"], headers["Access-Control-Allow-Headers"]) == ("*", "*")


@pytest.mark.parametrize(
    "fields",
    [(("Origin", APP),), (("Access-Control-Request-Method", "POST"),), ()],
)
def test_C07_other_options_requests_pass(fields: tuple[tuple[str, str], ...]) -> None:
    ctx = context(*fields, method="OPTIONS")
    Cors().pre_auth(ctx, LISTED)
    assert ctx._aborted is None


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
@pytest.mark.parametrize(
    "origins",
    [(f"{APP}, https://b.example",), (APP, APP), (f"{APP} https://b.example",), (f"{APP}\tX: 1",), ("",), ("https://ü.example",)],
)
def test_C09_a_malformed_origin_is_refused(method: str, origins: tuple[str, ...]) -> None:
    ctx = context(*(("Origin", origin) for origin in origins), ("Access-Control-Request-Method", "GET"), method=method)
    with pytest.raises(Aborted) as aborted:
        Cors().pre_auth(ctx, LISTED)
    assert (aborted.value.status, aborted.value.body) == (400, {"error": "Bad Request"})
    ctx.response = Response.error(400)
    assert granted(leaving(ctx, LISTED)) == []


def test_C10_no_private_network_grant() -> None:
    headers = preflight(CorsConfig(), APP, Access_Control_Request_Private_Network="true")
    assert "Access-Control-Allow-Origin" in headers
    assert "Access-Control-Allow-Private-Network" not in headers


@pytest.mark.parametrize(
    "field",
    [{"origins": ("*",)}, {"methods": ("*",)}, {"headers": ("*",)}, {"expose_headers": ("*",)}],
    ids=lambda field: next(iter(field)),
)
def test_C03_G25_wildcard_with_credentials_is_refused(field: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValidationError, match=r"no '\*' in \w+ together with allow_credentials"):
        CorsConfig(**{"origins": (APP,), "allow_credentials": True, **field})


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com/",
        "https://app.example.com/path",
        "app.example.com",
        "https://APP.example.com",
        "https://a*.example.com",
        "https://*",
        "https://*.*.example.com",
        "https://user@app.example.com",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "https://",
        "https://a b",
    ],
)
def test_an_origin_that_would_never_match_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match=r"scheme://host|no port"):
        CorsConfig(origins=(origin,))


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://[::1]:8080", "http://127.0.0.1", "chrome-extension://abcdefgh", "null"]
)
def test_an_origin_that_may_be_listed(origin: str) -> None:
    assert answered(context(("Origin", origin)), CorsConfig(origins=(origin,)))["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize(
    "text",
    ['{"methods": ["get"]}', '{"headers": ["X A"]}', '{"max_age": -1}', '{"maxAge": 5, "max_age": 5}', '{"allow_credentials": "yes"}'],
)
def test_a_field_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        CorsConfig.model_validate_json(text)


def test_the_configuration_survives_a_round_trip() -> None:
    config = CorsConfig.model_validate_json('{"origins": ["https://*.example.org"], "exposeHeaders": ["X-A"], "max_age": 5}')
    assert CorsConfig.model_validate_json(config.model_dump_json()) == config
