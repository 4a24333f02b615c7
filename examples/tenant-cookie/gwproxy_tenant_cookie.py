"""Tell the upstream which tenant is asking, as a signed cookie says.

The cookie is `<tenant>.<expires>.<signature>`: the tenant's name, when it ends (seconds since 1970), and an HMAC-SHA256 of
`<cookie's name>=<tenant>.<expires>` in base64url without padding. Whatever signs users in issues it; `sign` shows how.
A client cannot name a tenant by itself: the header is dropped from every request before anything else is looked at.
"""

import time
from base64 import urlsafe_b64encode
from hmac import compare_digest, digest
from typing import Annotated

from gwproxy import Context, Plugin, PluginConfig, hookimpl
from pydantic import Field, SecretStr

Secret = Annotated[SecretStr, Field(min_length=32, max_length=256)]
Tenant = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class TenantCookieConfig(PluginConfig):
    """Who signs, and what is done with what is signed."""

    secrets: Annotated[tuple[Secret, ...], Field(min_length=1, max_length=5)]
    """What cookies are signed with, 32 characters at least: the newest first; the others count until their cookies have ended."""
    cookie: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "tenant"
    """The name of the cookie."""
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "X-Tenant"
    """The header that tells the upstream; what a client sends by that name is dropped."""
    required: bool = True
    """Whether a request without the cookie is refused (401). False: it goes on, without a tenant."""
    tenants: Annotated[tuple[Tenant, ...], Field(max_length=1000)] = ()
    """Those that may pass; others are refused (403). Empty: all."""
    forward: bool = False
    """Whether the upstream gets the cookie, too."""


class TenantCookie(Plugin):
    name = "tenant_cookie"
    version = "1.0"
    priority = 250  # after whoever authenticates (200), before rate limits (300)
    config_model = TenantCookieConfig

    @hookimpl
    def pre_auth(self, ctx: Context, config: TenantCookieConfig) -> None:
        """Drop what the client says of its tenant, also on requests that will be refused."""
        ctx.request.headers.remove(config.header)

    @hookimpl
    def post_auth(self, ctx: Context, config: TenantCookieConfig) -> None:
        given = set(ctx.request.cookies.getlist(config.cookie))
        if not config.forward and given:
            _remove_cookie(ctx, config.cookie)
        if not given:
            if config.required:
                _refuse(ctx, config, "Authentication required")
            return
        # Several of one name: somebody has put his own beside ours, from a neighbouring domain perhaps.
        tenant = tenant_of(given.pop(), config) if len(given) == 1 else None
        if tenant is None:
            _refuse(ctx, config, "Invalid token")
        elif config.tenants and tenant not in config.tenants:
            ctx.abort(403, {"error": "Forbidden"})
        else:
            ctx.state["tenant"] = tenant
            ctx.request.headers[config.header] = tenant


def tenant_of(cookie: str, config: TenantCookieConfig) -> str | None:
    """Return whom a cookie names; None: it is not ours, was changed, or has ended."""
    signed, _, signature = cookie.rpartition(".")
    tenant, _, expires = signed.rpartition(".")
    good = [compare_digest(signature.encode(), _sign(config.cookie, signed, secret)) for secret in config.secrets]
    return tenant if any(good) and int(expires) > time.time() else None


def sign(tenant: str, expires: int, secret: str, cookie: str = "tenant") -> str:
    """Return the cookie of a tenant.

    :param tenant: lower case letters, digits, `-` and `_`.
    :param expires: seconds since 1970.
    :param cookie: its name.
    """
    signed = f"{tenant}.{expires}"
    return f"{signed}.{_sign(cookie, signed, SecretStr(secret)).decode()}"


def _sign(cookie: str, signed: str, secret: SecretStr) -> bytes:
    key = secret.get_secret_value().encode()
    return urlsafe_b64encode(digest(key, f"{cookie}={signed}".encode(), "sha256")).rstrip(b"=")


def _refuse(ctx: Context, config: TenantCookieConfig, error: str) -> None:
    ctx.challenge(f'Cookie cookie-name="{config.cookie}"')
    ctx.abort(401, {"error": error})


def _remove_cookie(ctx: Context, name: str) -> None:
    fields = ctx.request.headers.getlist("Cookie")
    pairs = [pair.strip() for field in fields for pair in field.split(";")]
    kept = [pair for pair in pairs if pair and pair.partition("=")[0].strip() != name]
    ctx.request.headers.remove("Cookie")
    if kept:
        ctx.request.headers["Cookie"] = "; ".join(kept)
