"""A plugin as a stranger would ship it: tells the upstream which tenant is asking, and counts them in the store."""

from __future__ import annotations

from gwproxy import Context, Gateway, Plugin, PluginConfig, hookimpl


class TenantConfig(PluginConfig):
    header: str = "X-Tenant"
    """The header that tells the upstream which tenant is asking."""
    per_minute: int = 1000
    """Requests a minute a tenant may make."""


class Tenant(Plugin):
    """Sends the first label of the requested host upstream as the tenant."""

    name = "tenant"
    version = "1.0"
    priority = 250
    config_model = TenantConfig

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        self.store = gateway.store

    @hookimpl
    def post_auth(self, ctx: Context, config: TenantConfig) -> None:
        tenant, dot, _ = ctx.request.host.partition(".")
        if not dot:
            ctx.abort(403, {"error": "Forbidden"})
        if not self.store.take(f"tenant:{tenant}", limit=config.per_minute, window=60).allowed:
            ctx.abort(429, {"error": "Rate limit exceeded"})
        ctx.state["tenant"] = tenant
        ctx.request.headers[config.header] = tenant

    @hookimpl
    def response(self, ctx: Context) -> None:
        ctx.response_headers["X-Served-For"] = ctx.state.get("tenant", "nobody")
