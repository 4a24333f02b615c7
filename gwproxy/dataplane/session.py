"""The requests session of an upstream: one that remembers nothing and decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests

from gwproxy.dataplane.transport import GatewayAdapter, GatewayResponse, RawResponse, UpstreamRequest, WholeResponse


class UpstreamSession(requests.Session):
    """A session that many clients' requests go through, and that carries nothing from one to another.

    A plain session sends one client's cookies with another's request, lets ``~/.netrc`` replace ``Authorization``, obeys
    proxy variables of the environment, follows redirects and adds header fields. Here none of it is left: no cookie is
    kept or sent, no environment is read, no field is added, and the one way out is the adapter.

    :ivar exchange: sends a request by the adapter.

    :param adapter: mounted for every URL; closed with the session.
    """

    def __init__(self, adapter: GatewayAdapter) -> None:
        super().__init__()
        self._adapter = adapter
        self.trust_env = False
        self.max_redirects = 0
        self.headers.clear()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.adapters.clear()
        self.mount("http://", adapter)
        self.mount("https://", adapter)
        # Sends a request and returns the response, its body still to come; raises as GatewayAdapter.send. The adapter's, not
        # Session.send: that one reads the body of a 3xx, and looks for cookies.
        self.exchange: Callable[[UpstreamRequest], RawResponse | WholeResponse] = adapter.exchange

    def send(self, request: requests.PreparedRequest | UpstreamRequest, **_kwargs: Any) -> GatewayResponse:
        """Send ``request`` by the adapter alone, so that whoever calls this by habit gets the same as :meth:`exchange`."""
        return self._adapter.send(request)
