"""Opening Redis: by one URL, with bounds on every wait, and messages without secrets."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import BlockingConnectionPool, Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection

from gwproxy.errors import CommandFailed
from gwproxy.store.redial import Paced, Redial

#: What an unavailable or misbehaving store raises. ``RedisError`` alone is not enough: the cluster's client has its own.
STORE_ERRORS: tuple[type[Exception], ...] = (RedisError, RedisClusterException, OSError)

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_SECRET_PARAMETER = re.compile(r"(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&\s]*")
_CREDENTIALS = re.compile(r"(?i)(://)[^\s/@]*@")
_HASH_TAG = re.compile(r"\{[^{}]+\}")


def connect(url: str, *, timeout: float = 0.1, max_connections: int = 64, redial: Redial | None = None) -> redis.Redis:
    """Make a client for ``url``; nothing is sent before its first command.

    No command is sent twice: a pooled connection that the server has closed meanwhile is found and replaced before
    use, any later failure is the caller's. Replies are bytes (RESP2: a RESP3 connection of redis-py may keep unread
    data when it goes back to its pool).

    :param url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://host1,host2:port/name/0`` (with
        ``?sentinel_password=`` if the sentinels ask for one) or ``redis+cluster://host1,host2:port``.
    :param timeout: seconds for each of: a free connection, connecting, a reply.
    :param max_connections: at most; a further command waits for a free one.
    :param redial: what paces attempts to connect, shared by all clients of a worker; None: nothing does. Not for a cluster.
    :raises CommandFailed: the URL makes no sense.
    """
    parts = _split(url)
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": "gwproxy",
        "driver_info": None,  # saves two round trips on every new connection
    }
    if parts.scheme.endswith("+sentinel"):
        return _sentinel(parts, options, timeout, max_connections, redial)
    if parts.scheme.endswith("+cluster"):
        return cast("redis.Redis", _LazyCluster(parts, options, max_connections))
    try:
        own = {**_typed(parse_url)(url), **options, "redial": redial}
        own["connection_class"] = _PACED[own.get("connection_class", Connection)]
        return redis.Redis(connection_pool=_typed(BlockingConnectionPool)(max_connections=max_connections, timeout=timeout, **own))
    except (ValueError, TypeError, RedisError) as error:
        raise CommandFailed(f"the Redis URL {mask_url(url)} makes no sense: {describe(error)}") from None


def check_prefix(url: str, prefix: str) -> None:
    """Refuse a prefix that would spread the keys of one gateway over the nodes of a cluster.

    :raises CommandFailed: naming what to do.
    """
    if "+cluster:" in url and not _HASH_TAG.search(prefix):
        raise CommandFailed(f"a Redis cluster needs a prefix with a hash tag; set GWPROXY_PREFIX={{gw}}: instead of {prefix!r}")


def describe(error: BaseException) -> str:
    """Return a message for the log: one line, no secrets, never empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    return mask_url(text)[:300]


def refuses_all(error: ResponseError) -> bool:
    """Whether an error reply is the store's own state (READONLY, OOM, MISCONF, ...), and not a matter of one key or script."""
    return type(error) not in (ResponseError, NoScriptError) or str(error).startswith(("MISCONF", "NOREPLICAS"))


def mask_url(url: str) -> str:
    """Return ``url``, or a text that holds URLs, with credentials replaced by ``***``."""
    url = _SECRET_PARAMETER.sub(r"\1***", url)
    if re.match(r"(?i)[a-z+]+://\S*@\S*$", url):
        # To the last "@": a password may hold "/", "?" or "@" that should have been escaped.
        scheme, _, rest = url.partition("://")
        return f"{scheme}://***@{rest.rpartition('@')[2]}"
    return _CREDENTIALS.sub(r"\1***@", url)


def is_cluster(client: redis.Redis) -> bool:
    """Whether ``client`` talks to a cluster, where ``EVALSHA`` cannot be part of a pipeline."""
    return isinstance(client, _LazyCluster)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise CommandFailed(f"{mask_url(url)} is no URL") from None
    if parts.scheme not in _SCHEMES:
        raise CommandFailed(f"the Redis URL {mask_url(url)} must start with one of {', '.join(s + '://' for s in _SCHEMES)}")
    return parts


def _hosts(parts: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """Return the hosts of ``a,b:1,[::1]:2``; a host without a port takes that of the last one."""
    names = [name.strip() for name in parts.netloc.rpartition("@")[2].split(",") if name.strip()]
    split = [urlsplit(f"//{name}") for name in names]
    try:
        last = next((one.port for one in reversed(split) if one.port), default_port)
        hosts = [(one.hostname or "", one.port or last) for one in split]
    except ValueError as error:
        raise CommandFailed(f"the Redis URL {mask_url(parts.geturl())} makes no sense: {error}") from None
    if not hosts or not all(host for host, _ in hosts):
        raise CommandFailed(f"the Redis URL {mask_url(parts.geturl())} names no host")
    return hosts


def _credentials(parts: SplitResult) -> dict[str, str]:
    user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    named = {"username": unquote(user), "password": unquote(password) if colon else ""}
    return {key: value for key, value in named.items() if value}


class _Plain(Paced, Connection):
    pass


class _TLS(Paced, SSLConnection):
    pass


class _Unix(Paced, UnixDomainSocketConnection):
    pass


_PACED: dict[type, type] = {Connection: _Plain, SSLConnection: _TLS, UnixDomainSocketConnection: _Unix}


class _SentinelConnection(Paced, SentinelManagedConnection):
    """Closes after an interrupted reply, as a plain connection does: the rest of it must not answer the next command."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        return super().read_response(*args, **{"disconnect_on_error": True, **options})


class _SentinelTLSConnection(_SentinelConnection, SentinelManagedSSLConnection):
    pass


class _BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Finds the master by sentinel; waits for a free connection instead of failing."""


def _sentinel(parts: SplitResult, options: dict[str, Any], timeout: float, max_connections: int, redial: Redial | None) -> redis.Redis:
    name, _, database = parts.path.strip("/").partition("/")
    if not name or (database and not database.isdigit()):
        raise CommandFailed(f"the Redis URL {mask_url(parts.geturl())} must end with /name or /name/database")
    query = dict(parse_qsl(parts.query))
    # Half the time each: asking a dead sentinel first and the next one then still fits.
    asking = {**options, "socket_timeout": timeout / 2, "socket_connect_timeout": timeout / 2}
    asking |= {key: query[f"sentinel_{key}"] for key in ("username", "password") if f"sentinel_{key}" in query}
    tls = parts.scheme.startswith("rediss")
    sentinel = _typed(Sentinel)(_hosts(parts, 26379), sentinel_kwargs={**asking, "ssl": tls})
    own = {**options, **_credentials(parts), "db": int(database or 0), "max_connections": max_connections, "timeout": timeout}
    own["redial"] = redial
    own["connection_class"] = _SentinelTLSConnection if tls else _SentinelConnection
    client: redis.Redis = sentinel.master_for(name, connection_pool_class=_BlockingSentinelPool, **own)
    return client


def _typed(function: Callable[..., Any]) -> Callable[..., Any]:
    return function  # redis-py leaves the types of these out


class _LazyCluster:
    """A cluster's client that finds its nodes at the first command, not when it is made: a worker starts without."""

    def __init__(self, parts: SplitResult, options: dict[str, Any], max_connections: int) -> None:
        self._hosts = _hosts(parts, 6379)
        own = {key: value for key, value in options.items() if key != "retry"}
        self._options = {**own, **_credentials(parts), "max_connections": max_connections}
        if parts.scheme.startswith("rediss"):
            self._options |= {"connection_class": SSLConnection, "ssl": True}
        self._client: RedisCluster | None = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if self._client is None:
            with self._lock:
                if self._client is None:
                    nodes = [_typed(ClusterNode)(host, port) for host, port in self._hosts]
                    self._client = RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 1), **self._options)
        return getattr(self._client, name)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
