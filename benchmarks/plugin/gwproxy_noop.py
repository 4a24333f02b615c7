"""A plugin that does nothing: what is left is what one more plugin costs."""

from __future__ import annotations

from gwproxy import Context, Plugin, PluginConfig, hookimpl


class Noop(Plugin):
    """Does nothing, before the request is forwarded."""

    name = "noop"
    version = "1.0"
    priority = 500

    @hookimpl
    def pre_proxy(self, ctx: Context, config: PluginConfig) -> None:
        pass
