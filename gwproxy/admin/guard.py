"""Who may ask at all, before it is looked at what for: no web page, no guesser, nobody without a token."""

from __future__ import annotations

import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from werkzeug.wrappers import Request

from gwproxy.admin.answers import Refused
from gwproxy.errors import BadRequest, CommandFailed
from gwproxy.http.hosts import parse_host
from gwproxy.settings import Settings, split_bind
from gwproxy.store.tokens import FIRST, Role, TokenStore

log = logging.getLogger("gwproxy.admin")

CHALLENGE = (("WWW-Authenticate", 'Bearer realm="gwproxy admin"'),)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_LONGEST = 512  # characters of a token


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    :ivar name: of the token; the actor of what is changed.
    :ivar valid: asks whether the token still is: for answers that go on for long.
    """

    name: str
    role: Role
    valid: Callable[[], bool] = field(repr=False)


class Hosts:
    """Which names requests may ask for: a page whose name was made to lead here (DNS rebinding) asks for its own."""

    def __init__(self, settings: Settings) -> None:
        bind = settings.admin_bind or ""
        host = "" if bind.startswith("unix:") or not bind else split_bind(bind)[0].lower()
        self._any_address = not bind.startswith("unix:") and host in _WILDCARDS
        self._names = _LOOPBACK | {f"[{host}]" if ":" in host else host} | set(settings.admin_hosts)

    def allow(self, value: str) -> bool:
        """Whether a Host field names this listener. Where any address is listened on, any address does: none can be rebound."""
        try:
            name = parse_host(value).name
        except BadRequest:
            return False
        return name in self._names or (self._any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def check_browser(request: Request) -> None:
    """Refuse what a page of another origin has a browser send (CSRF). Nothing here answers a CORS preflight either.

    :raises Refused: 403.
    """
    site = request.headers.get("Sec-Fetch-Site", "none").lower()
    origin = request.headers.get("Origin")
    try:
        own = origin is None or urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower()
    except ValueError:
        own = False
    if not own or site not in ("same-origin", "none"):
        raise Refused(403, "requests from pages of other origins are not answered")


class Guesses:
    """Wrong tokens by client address: after a burst, one attempt in a while.

    An address that has used up its attempts is not listened to, whatever it sends: else it could go on guessing. The
    addresses that are remembered are bounded; the oldest is forgotten first.

    :param burst: wrong tokens in a row.
    :param every: seconds until another attempt is allowed.
    """

    def __init__(self, burst: int = 10, every: float = 6.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._every = every
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()  # when all attempts of an address will be back

    def wait(self, client: str) -> float:
        """Return the seconds until this client may try again; 0.0: now."""
        return max(0.0, self._full_at.get(client, 0.0) - self._clock() - (self._burst - 1) * self._every)

    def wrong(self, client: str) -> bool:
        """Note a wrong token; return whether that is worth telling: the first one in a while, and the last before the wait."""
        now = self._clock()
        before = max(self._full_at.pop(client, now), now)
        self._full_at[client] = before + self._every
        while len(self._full_at) > 1024:
            self._full_at.popitem(last=False)
        return before == now or self.wait(client) > 0.0


class Doorkeeper:
    """Knows tokens.

    :param first: the token that is not in the store.
    :param noted: called with a client's address when a wrong token was sent, and is worth telling.
    """

    def __init__(self, first: str, tokens: TokenStore, noted: Callable[[str], None]) -> None:
        self._first = first.encode()
        self._tokens = tokens
        self._noted = noted
        self.guesses = Guesses()

    def admit(self, request: Request) -> Caller:
        """Return who asks.

        :raises Refused: 401 without a token or with a wrong one; 429 after too many wrong ones from the same address.
        :raises StoreUnavailable: the token may be one that the store knows.
        """
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise Refused(401, "Authentication required", fields=CHALLENGE)
        client = _network(request.remote_addr or "")
        if wait := self.guesses.wait(client):
            raise Refused(429, "too many wrong tokens", fields=(("Retry-After", str(int(wait) + 1)),))
        caller = self._find(secret)
        if caller is None:
            if self.guesses.wrong(client):
                log.warning("admin_token_refused client=%s", client or "unix")
                self._noted(client)
            raise Refused(401, "Invalid token", fields=CHALLENGE)
        return caller

    def _find(self, secret: str) -> Caller | None:
        if len(secret) > _LONGEST:
            return None
        if hmac.compare_digest(secret.encode("utf-8", "surrogatepass"), self._first):
            return Caller(FIRST, "admin", lambda: True)
        token = self._tokens.find(secret)
        return None if token is None else Caller(token.name, token.role, lambda: self._tokens.find(secret) is not None)


def _network(address: str) -> str:
    """Return what one client may choose its addresses from: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return f"{ip_address(int(parsed) >> 64 << 64)}/64"
    return str(parsed if parsed.version == 4 else parsed.ipv4_mapped)


def hosts_of(settings: Settings) -> Hosts:
    """Return the names of the listener.

    :raises CommandFailed: ``GWPROXY_ADMIN_BIND`` or ``GWPROXY_ADMIN_HOSTS`` makes no sense.
    """
    for name in settings.admin_hosts:
        try:
            parse_host(name)
        except BadRequest:
            raise CommandFailed(f"GWPROXY_ADMIN_HOSTS: {name!r} is no host name") from None
    return Hosts(settings)
