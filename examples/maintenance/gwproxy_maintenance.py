"""Close a service for maintenance, by schedule: 503, with the seconds until it opens again.

Windows come every week or once, by the wall clock of a time zone. Those who do the work are let through by their address,
and where reading goes on meanwhile, so is everybody who only reads.
"""

from datetime import datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from math import ceil
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from gwproxy import Context, Plugin, PluginConfig, hookimpl
from pydantic import Field, IPvAnyNetwork, model_validator

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY, WEEK = 24 * 60, 7 * 24 * 60  # minutes
NEVER = timedelta()


class Weekly(PluginConfig):
    """A window that comes on days of the week."""

    days: Annotated[tuple[Day, ...], Field(min_length=1, max_length=7)] = DAYS
    """The days on which it opens."""
    at: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    """When it opens: `02:30`."""
    minutes: Annotated[int, Field(ge=1, le=WEEK)]
    """How long it lasts, in minutes: 1 to 10080, a week."""

    @cached_property
    def opens(self) -> tuple[int, ...]:
        """When it opens, in minutes of the week."""
        return tuple(DAYS.index(day) * DAY + int(self.at[:2]) * 60 + int(self.at[3:]) for day in self.days)

    def left(self, now: datetime) -> timedelta:
        """Return how long it lasts from ``now`` on; 0 or less: it is not open."""
        minute = now.weekday() * DAY + now.hour * 60 + now.minute
        return timedelta(minutes=max(self.minutes - (minute - opened) % WEEK for opened in self.opens), seconds=-now.second)


class Once(PluginConfig):
    """A window that comes once."""

    begins: datetime
    """When it opens: `2027-01-30T22:00:00`, by the clock of `timezone` unless it has an offset of its own."""
    ends: datetime
    """When it closes, written as `begins`."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if (self.begins.tzinfo is None) != (self.ends.tzinfo is None) or self.begins >= self.ends:
            raise ValueError("it ends after it begins, and both have an offset or none has")
        return self

    def left(self, now: datetime) -> timedelta:
        """Return how long it lasts from ``now`` on; 0 or less: it is not open."""
        begins, ends = (moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo) for moment in (self.begins, self.ends))
        return ends - now if begins <= now else NEVER


class MaintenanceConfig(PluginConfig):
    """When the service is closed, and to whom."""

    timezone: Annotated[str, Field(max_length=64)] = "UTC"
    """Whose clock the windows go by: `Europe/Berlin`."""
    weekly: Annotated[tuple[Weekly, ...], Field(max_length=20)] = ()
    """Windows that come every week."""
    once: Annotated[tuple[Once, ...], Field(max_length=20)] = ()
    """Windows that come once; those that are over may stay."""
    closed: bool = False
    """True: closed now, whatever the schedule says, and nobody knows for how long."""
    read_only: bool = False
    """True: `GET`, `HEAD` and `OPTIONS` are served all the same, but no upgrade to WebSocket."""
    allow: Annotated[tuple[IPvAnyNetwork, ...], Field(max_length=100)] = ()
    """Addresses and networks that are let through: `10.0.0.0/8`."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"no time zone {self.timezone!r} is known here") from None
        return self

    @cached_property
    def zone(self) -> ZoneInfo:
        """The time zone, looked up once."""
        return ZoneInfo(self.timezone)

    def lets(self, address: str) -> bool:
        """Whether a client is let through; one without an address (of a Unix socket) is not."""
        try:
            return any(ip_address(address) in network for network in self.allow)
        except ValueError:
            return False


class Maintenance(Plugin):
    name = "maintenance"
    version = "1.0"
    priority = 110  # after cors (100): pages of other origins are to read why
    config_model = MaintenanceConfig

    @hookimpl
    def pre_auth(self, ctx: Context, config: MaintenanceConfig) -> None:
        now = datetime.now(config.zone)
        windows: list[Weekly | Once] = [*config.weekly, *config.once]
        left = max((window.left(now) for window in windows), default=NEVER)
        if left <= NEVER and not config.closed:
            return
        request = ctx.request
        reads = request.method in ("GET", "HEAD", "OPTIONS") and not request.upgrade
        if (config.read_only and reads) or config.lets(request.remote_addr):
            return
        until = [] if config.closed else [("Retry-After", str(ceil(left.total_seconds())))]
        ctx.abort(503, {"error": "Service Unavailable"}, headers=until)
