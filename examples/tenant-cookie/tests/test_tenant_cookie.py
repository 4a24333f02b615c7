import base64
import hashlib
import hmac
import time
from typing import Any

import pytest
from gwproxy.testing import Answer, ConfigurationRefused, InProcessGateway

from gwproxy_tenant_cookie import TenantCookie, sign

SECRET = "a secret of this test, 32 characters or more"
OLD = "the secret before it, and just as long as that"


def cookie(tenant: str = "acme", ends_in: float = 60, secret: str = SECRET, name: str = "tenant") -> str:
    return f"{name}={sign(tenant, int(time.time() + ends_in), secret, name)}"


def get(gateway: InProcessGateway, *cookies: str, header: tuple[str, str] = ("Accept", "*/*"), **config: Any) -> Answer:
    gateway.use(TenantCookie, {"secrets": [SECRET], **config})
    return gateway.get("/x", headers=[header, *(("Cookie", one) for one in cookies)])


def told(answer: Answer) -> tuple[int, str | None]:
    """The status, and which tenant the upstream was told."""
    return answer.status, answer.upstream.headers.get("X-Tenant") if answer.seen else None


def test_the_upstream_is_told_the_tenant_and_nothing_of_the_cookie(gateway: InProcessGateway) -> None:
    answer = get(gateway, f"theme=dark; {cookie()}; x=1")
    assert told(answer) == (200, "acme")
    assert answer.upstream.headers.getlist("Cookie") == ["theme=dark; x=1"]
    assert answer.state["tenant"] == "acme"


def test_a_cookie_field_that_holds_nothing_else_goes(gateway: InProcessGateway) -> None:
    assert "Cookie" not in get(gateway, cookie()).upstream.headers


def test_the_cookie_is_forwarded_where_the_operator_wants_it(gateway: InProcessGateway) -> None:
    assert get(gateway, one := cookie(), forward=True).upstream.headers.getlist("Cookie") == [one]


def test_a_cookie_is_what_the_documentation_says(gateway: InProcessGateway) -> None:
    """Made by hand, as another language would."""
    signed = f"acme.{int(time.time()) + 60}"
    mac = hmac.new(SECRET.encode(), f"tenant={signed}".encode(), hashlib.sha256).digest()
    assert told(get(gateway, f"tenant={signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}")) == (200, "acme")


def test_what_a_client_says_of_its_tenant_is_dropped(gateway: InProcessGateway) -> None:
    assert told(get(gateway, header=("x-tenant", "admin"), required=False)) == (200, None)
    assert told(gateway.get("/x", headers={"X-Tenant": "admin", "Cookie": cookie()})) == (200, "acme")


def changed(text: str) -> str:
    return text.replace("acme", "evil")


@pytest.mark.parametrize(
    "bad",
    [
        changed(cookie()),
        cookie(secret=OLD),
        cookie(ends_in=-1),
        cookie()[:-1],
        cookie(name="other").replace("other=", "tenant="),
        "tenant=",
        "tenant=acme",
        "tenant=acme.99999999999.",
        "tenant=..",
        "tenant=\xff.\xfe.\xfd",
        f"{cookie()}; {cookie('evil')}",
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_a_cookie_that_is_not_good_is_refused(gateway: InProcessGateway, bad: str, required: bool) -> None:
    answer = get(gateway, bad, required=required)
    assert (answer.status, answer.json(), answer.seen) == (401, {"error": "Invalid token"}, ())
    assert answer.headers["WWW-Authenticate"] == 'Cookie cookie-name="tenant"'


def test_the_same_one_twice_is_one(gateway: InProcessGateway) -> None:
    one = cookie()
    assert told(get(gateway, f"{one}; {one}")) == (200, "acme")


def test_none_is_refused_where_one_is_required(gateway: InProcessGateway) -> None:
    answer = get(gateway)
    assert (answer.status, answer.json()) == (401, {"error": "Authentication required"})
    assert "WWW-Authenticate" in answer.headers


def test_it_ends_when_it_says(gateway: InProcessGateway) -> None:
    one = cookie(ends_in=30)
    assert get(gateway, one).status == 200
    gateway.clock.advance(31)
    assert gateway.get("/x", headers={"Cookie": one}).status == 401


def test_secrets_are_changed_without_signing_anybody_out(gateway: InProcessGateway) -> None:
    gateway.use(TenantCookie, {"secrets": [SECRET, OLD]})
    assert [gateway.get("/x", headers={"Cookie": cookie(secret=secret)}).status for secret in (SECRET, OLD)] == [200, 200]


def test_tenants_that_are_not_listed_are_refused(gateway: InProcessGateway) -> None:
    answer = get(gateway, cookie("other"), tenants=["acme"])
    assert (answer.status, answer.json()) == (403, {"error": "Forbidden"})
    assert told(gateway.get("/x", headers={"Cookie": cookie()})) == (200, "acme")


@pytest.mark.parametrize(
    "wrong", [{"secrets": []}, {"secrets": ["short"]}, {"header": "not a name"}, {"cookie": "a b"}, {"tenants": ["Acme"]}]
)
def test_what_is_refused(gateway: InProcessGateway, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationRefused) as refused:
        gateway.use(TenantCookie, {"secrets": [SECRET], **wrong})
    assert SECRET not in str(refused.value)
