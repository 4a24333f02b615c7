"""The phases of a request and the events of a worker: the reference of the plugin API, version 1.

A plugin implements any of these as a method marked with :data:`hookimpl`. Within a phase the plugins of a route run by
priority, lowest first. A hook may take fewer arguments than listed here (pluggy passes those it names), returns None,
and is a plain function: no generator, no coroutine, no wrapper.

``config`` is the validated, frozen configuration of that plugin on that route. Any phase may end the request with
``ctx.abort(...)``. A hook that raises, or runs out of its ``budget``, ends the request with 500 (``on_error: fail``)
unless its entry says ``on_error: ignore``, which is the default in ``response``; with ``disable``, what fails again and
again is switched off. Lifecycle hooks may take 5 seconds,
``worker_stopping`` 2; what they raise is logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from gwproxy.context import Context
    from gwproxy.plugin import PluginConfig
    from gwproxy.ports import Gateway

#: The version of the plugin API. A plugin made for another one says so: :attr:`gwproxy.Plugin.api_version`.
API_VERSION = 1

#: The phases, in the order in which a request passes them.
PHASES = ("pre_auth", "auth", "post_auth", "pre_proxy", "post_proxy", "response")

hookspec = pluggy.HookspecMarker("gwproxy")
hookimpl = pluggy.HookimplMarker("gwproxy")


class HookSpecs:
    """The hooks a plugin may implement."""

    # ---- the phases of a request

    @hookspec
    def pre_auth(self, ctx: Context, config: PluginConfig) -> None:
        """Runs first, before anybody is known: preflights, address lists, request ids.

        ``ctx.response`` is None, ``ctx.consumer`` is None.
        """

    @hookspec
    def auth(self, ctx: Context, config: PluginConfig) -> None:
        """Authenticates; there are three answers.

        *This is who it is*: call ``ctx.authenticate(user_id)``. *No credential of my kind*: return, after
        ``ctx.challenge(...)``, and the next plugin is asked. *A bad credential*: ``ctx.abort(401, {"error": "Invalid
        token"})``. A route with enforcing ``auth`` hooks of which none authenticated answers 401 by itself. Remove a
        credential that must not go upstream before judging it.
        """

    @hookspec
    def post_auth(self, ctx: Context, config: PluginConfig) -> None:
        """Runs when it is known who calls: authorization, rate limits, quotas."""

    @hookspec
    def pre_proxy(self, ctx: Context, config: PluginConfig) -> None:
        """Runs last before forwarding: changes to ``ctx.request`` and ``ctx.upstream``."""

    @hookspec
    def post_proxy(self, ctx: Context, config: PluginConfig) -> None:
        """Runs when an upstream has answered its head: changes to ``ctx.response``. Not after an abort or a failure."""

    @hookspec
    def response(self, ctx: Context, config: PluginConfig) -> None:
        """Runs for every request, last: normal, aborted, upstream failed, plugin crashed.

        ``ctx.response`` is what will leave. For a request that matched no route, the global plugins' hooks run with
        ``ctx.route`` None. To log, register ``ctx.on_finish``: sizes and duration are known only there.
        """

    # ---- the events of a worker

    @hookspec
    def worker_started(self, gateway: Gateway) -> None:
        """Called once in each worker, before its first request; keep ``gateway`` for the store and background work."""

    @hookspec
    def configuration_applied(self, revision: int, digest: str) -> None:
        """Called after a worker has swapped in a configuration. ``digest`` is the SHA-256 of its bytes, in hex."""

    @hookspec
    def worker_stopping(self) -> None:
        """Called once when a worker stops, after its last request; not if it was killed."""
