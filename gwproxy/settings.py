"""What the process is told at start, by its environment. Not configuration: nothing here changes while it runs."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from gwproxy.errors import CommandFailed, WheelRefused
from gwproxy.model import parse_size
from gwproxy.wheels.minisign import PublicKey

Network = IPv4Network | IPv6Network

DEFAULT_ADMIN_BIND = "127.0.0.1:8081"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one process; :meth:`from_environment` reads them.

    :ivar redis_url: None: no store; the configuration comes from :attr:`config`.
    :ivar prefix: of every key in the store, with its colon.
    :ivar state_dir: for last-good configurations, the embedded store, tokens.
    :ivar config: a configuration file: the source without a store, else the seed of an absent ``gw:routes``.
    :ivar admin_bind: the admin listener, ``HOST:PORT`` or ``unix:PATH``; None: there is none.
    :ivar admin_token: one that may do everything there; None: the one in the state folder.
    :ivar admin_hosts: further host names that requests to it may ask for, in lower case.
    :ivar trusted_proxies: networks whose ``X-Forwarded-For`` is believed.
    :ivar proxy_protocol: ``off`` or ``v2``.
    :ivar proxy_from: networks that send the PROXY header; a connection from elsewhere, or without it, is closed.
    :ivar env_allow: patterns of the names that a configuration may reference as ``${NAME}``.
    :ivar http_parser: ``quick``: plain requests are parsed by the gateway's own parser, all others by gunicorn's;
        ``python``: all by gunicorn's.
    :ivar transport: ``gateway``: upstreams are asked by the gateway's own transport; ``requests``: by requests' and urllib3's.
    :ivar header_timeout: seconds a client may take to send a request's head.
    :ivar body_timeout: seconds a client may be silent while it sends a body.
    :ivar body_rate: bytes a second, the least a body must average after the first ``body_timeout`` seconds.
    :ivar write_timeout: seconds a client may leave its response unread.
    :ivar max_in_flight: requests a worker serves at once, tunnels included; further ones are answered 503. 0: no bound.
    :ivar actor: who acts by commands, for the history; None: whoever is logged in.
    :ivar history_keep: how many revisions stay in the history at most.
    :ivar history_days: days after which a revision leaves the history. 0: never.
    :ivar max_memory: bytes of resident memory beyond which a worker is replaced. 0: no bound.
    :ivar plugin_keys: who may sign plugins that are pushed; nobody: none is loaded.
    """

    redis_url: str | None = None
    prefix: str = "gw:"
    state_dir: Path = Path("gwproxy-state")
    config: Path | None = None
    admin_bind: str | None = DEFAULT_ADMIN_BIND
    admin_hosts: tuple[str, ...] = ()
    admin_token: str | None = field(default=None, repr=False)
    trusted_proxies: tuple[Network, ...] = ()
    proxy_protocol: str = "off"
    proxy_from: tuple[Network, ...] = ()
    env_allow: tuple[str, ...] = ("GW_*", "JWT_SECRET")
    log_level: str = "info"
    http_parser: str = "quick"
    transport: str = "gateway"
    header_timeout: float = 10.0
    body_timeout: float = 20.0
    body_rate: int = 500
    write_timeout: float = 30.0
    max_in_flight: int = 1000
    max_memory: int = 1 << 30
    actor: str | None = None
    history_keep: int = 1000
    history_days: float = 0.0
    plugin_keys: tuple[PublicKey, ...] = ()

    def may_reference(self, name: str) -> bool:
        """Whether a configuration may reference the environment variable ``name``."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.env_allow)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the ``GWPROXY_*`` variables.

        :raises CommandFailed: one of them makes no sense; the message names it.
        """
        read = _Reader(environ)
        proxy_protocol = read.choice("PROXY_PROTOCOL", "off", "v2")
        proxy_from = read.networks("PROXY_FROM")
        if proxy_protocol == "v2" and not proxy_from:
            raise CommandFailed("GWPROXY_PROXY_PROTOCOL=v2 needs GWPROXY_PROXY_FROM: the networks of the load balancer")
        config = read.text("CONFIG")
        return cls(
            redis_url=read.text("REDIS_URL"),
            prefix=read.text("PREFIX") or "gw:",
            state_dir=state_dir(environ),
            config=Path(config) if config else None,
            admin_bind=admin_bind(read.text("ADMIN_BIND") or DEFAULT_ADMIN_BIND),
            admin_hosts=tuple(host.strip().lower() for host in (read.text("ADMIN_HOSTS") or "").split(",") if host.strip()),
            admin_token=read.text("ADMIN_TOKEN"),
            trusted_proxies=read.networks("TRUSTED_PROXIES"),
            proxy_protocol=proxy_protocol,
            proxy_from=proxy_from,
            env_allow=tuple(p.strip() for p in (read.text("ENV_ALLOW") or "GW_*,JWT_SECRET").split(",") if p.strip()),
            log_level=(read.text("LOG_LEVEL") or "info").lower(),
            http_parser=read.choice("HTTP_PARSER", "quick", "python"),
            transport=read.choice("TRANSPORT", "gateway", "requests"),
            header_timeout=read.seconds("HEADER_TIMEOUT", 10.0),
            body_timeout=read.seconds("BODY_TIMEOUT", 20.0),
            body_rate=int(read.seconds("BODY_RATE", 500)),
            write_timeout=read.seconds("WRITE_TIMEOUT", 30.0),
            max_in_flight=read.count("MAX_IN_FLIGHT", 1000),
            max_memory=read.size("MAX_MEMORY", 1 << 30),
            actor=read.text("ACTOR"),
            history_keep=read.count("HISTORY_KEEP", 1000, least=1),
            history_days=read.days("HISTORY_DAYS", 0.0),
            plugin_keys=read.public_keys("PLUGIN_KEYS"),
        )


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where this machine's state is kept; the folder need not exist."""
    if own := environ.get("GWPROXY_STATE_DIR"):
        return Path(own)
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path(environ.get("HOME", "/")) / ".local" / "state") / "gwproxy"


def admin_bind(text: str) -> str | None:
    """Return where the admin listener is to be; None for ``off``."""
    return None if text == "off" else text


def split_bind(bind: str) -> tuple[str, int]:
    """Return host (empty: any address) and port of a ``HOST:PORT``, an IPv6 address without its brackets.

    :raises CommandFailed: it is none.
    """
    host, colon, port = bind.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and int(port) < 1 << 16) or (":" in host and not host.startswith("[")):
        raise CommandFailed(f"{bind!r} is no address to listen on; give HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    return host.strip("[]"), int(port)


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str) -> str | None:
        return self._environ.get(f"GWPROXY_{name}", "").strip() or None

    def choice(self, name: str, default: str, other: str) -> str:
        value = self.text(name) or default
        if value not in (default, other):
            raise CommandFailed(f"GWPROXY_{name} is {value!r}; it may be {default!r} or {other!r}")
        return value

    def seconds(self, name: str, default: float) -> float:
        text = self.text(name)
        try:
            value = float(text) if text else default
        except ValueError:
            value = 0.0
        if not 0 < value < 1e9:
            raise CommandFailed(f"GWPROXY_{name} is {text!r}; it must be a number above 0")
        return value

    def count(self, name: str, default: int, *, least: int = 0) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
            raise CommandFailed(
                f"GWPROXY_{name} is {text!r}; it must be a whole number, {'0 for no bound' if not least else f'{least} or more'}"
            )
        return int(text)

    def days(self, name: str, default: float) -> float:
        text = self.text(name)
        try:
            value = float(text) if text else default
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e6:
            raise CommandFailed(f"GWPROXY_{name} is {text!r}; it must be a number of days, 0 for no bound")
        return value

    def size(self, name: str, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        try:
            return int(str(parse_size(text)))
        except ValueError as error:
            raise CommandFailed(f"GWPROXY_{name} is {text!r}; {error}, 0 for no bound") from None

    def networks(self, name: str) -> tuple[Network, ...]:
        try:
            return tuple(ip_network(part.strip()) for part in (self.text(name) or "").split(",") if part.strip())
        except ValueError as error:
            raise CommandFailed(f"GWPROXY_{name}: {error}; give networks such as 10.0.0.0/8,192.0.2.7") from None

    def public_keys(self, name: str) -> tuple[PublicKey, ...]:
        keys: dict[PublicKey, None] = {}
        for part in (self.text(name) or "").split(","):
            if part.strip():
                keys[self._public_key(name, part.strip())] = None
        return tuple(keys)

    def _public_key(self, name: str, text: str) -> PublicKey:
        try:
            return PublicKey.parse(text)
        except WheelRefused:
            path = Path(text)
        try:
            return PublicKey.parse(path.read_text())
        except WheelRefused as refused:
            raise CommandFailed(f"GWPROXY_{name}: {text}: {refused.reason}") from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise CommandFailed(f"GWPROXY_{name}: {text!r} is no public key of minisign, nor a file with one: {why}") from None
