"""gwproxy: an API gateway whose policies are Python plugins.

This module is the public API, version 1: what a plugin may import, and nothing else. What it offers stays.
"""

from gwproxy.context import Context, Outcome, Shadowed, UpstreamChoice
from gwproxy.errors import PayloadTooLarge, RequestTimeout, StoreUnavailable
from gwproxy.hookspecs import API_VERSION, PHASES, hookimpl
from gwproxy.http.addresses import is_forbidden as is_forbidden_address
from gwproxy.http.headers import Headers
from gwproxy.messages import Request, Response
from gwproxy.model import Consumer, Duration, Route, Size, Timeouts
from gwproxy.plugin import Entry, Plugin, PluginConfig
from gwproxy.ports import Algorithm, Decision, Gateway, Store

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "PHASES",
    "Algorithm",
    "Consumer",
    "Context",
    "Decision",
    "Duration",
    "Entry",
    "Gateway",
    "Headers",
    "Outcome",
    "PayloadTooLarge",
    "Plugin",
    "PluginConfig",
    "Request",
    "RequestTimeout",
    "Response",
    "Route",
    "Shadowed",
    "Size",
    "Store",
    "StoreUnavailable",
    "Timeouts",
    "UpstreamChoice",
    "__version__",
    "hookimpl",
    "is_forbidden_address",
]
