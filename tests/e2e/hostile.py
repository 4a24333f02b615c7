"""Plugins that do what no plugin should: the request says what, the route's entry in which phase.

``install(folder)`` of strangers.py puts this file where a gateway finds it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from typing import Literal

import gevent
from gevent import monkey
from pydantic import Field, SecretStr, field_validator

from gwproxy import Context, Outcome, Plugin, PluginConfig, hookimpl

Phase = Literal["pre_auth", "auth", "post_auth", "pre_proxy", "post_proxy", "response", "on_finish"]

log = logging.getLogger("gwproxy.plugins.hostile")


class OfItsOwn(BaseException):
    """Derives from nothing that anybody catches."""


def recurse() -> None:
    recurse()


def spin(seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def spin_logging() -> None:
    """Hold the lock of the log most of the time."""
    while True:
        log.debug("still here")


def swallow(times: int, again: Callable[[], object]) -> None:
    """Do something again although it was ended."""
    for _ in range(times):
        try:
            again()
        except BaseException:
            log.info("hostile_swallowed")


def native_sleep() -> None:
    """Sleep without gevent's knowledge, as a C library would."""
    monkey.get_original("time", "sleep")(60)


def hold_lock() -> None:
    """Compute in C calls that do not let go of Python's lock, each for half a second or more."""
    for _ in range(4):
        sum(range(40_000_000))


def compute() -> None:
    """Compute in C calls that let go of Python's lock and cannot be interrupted, each for half a second or more."""
    for _ in range(4):
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2_000_000)


RAISED: dict[str, BaseException | type[BaseException]] = {
    "Exception": ValueError("x"),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "GreenletExit": gevent.GreenletExit,
    "Timeout": gevent.Timeout(1),
    "MemoryError": MemoryError,
    "OSError": OSError(5, "x"),
    "OfItsOwn": OfItsOwn,
}

DEEDS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "recurse": recurse,
    "spin": spin,
    "spin_logging": spin_logging,
    "spin_swallowing": lambda: swallow(2, spin),
    "native_sleep": native_sleep,
    "hold_lock": hold_lock,
    "compute": compute,
    "compute_for_ever": lambda: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2**31 - 1),
    "wait": lambda: gevent.sleep(60),
    "wait_swallowing": lambda: swallow(2, lambda: gevent.sleep(60)),
    "killed": lambda: gevent.spawn(gevent.getcurrent().kill, block=False) and gevent.sleep(60),
}


def do(deed: str) -> None:
    if deed in RAISED:
        raise RAISED[deed]
    if deed.startswith("spin_for:"):
        spin(float(deed[9:]))
    elif deed.startswith("wait_for:"):
        gevent.sleep(float(deed[9:]))
    else:
        DEEDS[deed]()


class HostileConfig(PluginConfig):
    phase: Phase = "post_auth"
    items: list[str] = Field(default=["first"])
    table: dict[str, list[str]] = Field(default={"a": ["first"]})
    keys: dict[str, SecretStr] = Field(default={})
    spin: bool = False

    @field_validator("spin")
    @classmethod
    def _spin(cls, value: bool) -> bool:
        if value:
            spin()
        return value


class DeedConfig(PluginConfig):
    phase: Phase = "post_auth"


class Deed(Plugin):
    """Does what ``?do=`` says, in the phase of its entry, and has no say in who is let in."""

    name = "stranger_deed"
    version = "1.2"
    config_model = DeedConfig

    @hookimpl
    def pre_auth(self, ctx: Context, config: DeedConfig) -> None:
        if config.phase == "pre_auth":
            do(ctx.request.query.get("do", "nothing"))

    @hookimpl
    def post_auth(self, ctx: Context, config: DeedConfig) -> None:
        if config.phase == "post_auth":
            do(ctx.request.query.get("do", "nothing"))


class Hostile(Plugin):
    """Does what ``?do=`` says, in the phase of its entry; in ``auth`` it lets everybody in otherwise."""

    name = "hostile"
    config_model = HostileConfig

    def _act(self, phase: Phase, ctx: Context, config: HostileConfig) -> None:
        if phase == config.phase:
            if "tell" in ctx.request.query:
                log.info("the keys are %s, in plain text %s", config.keys, config.keys["a"].get_secret_value())
                raise ValueError(config.keys["a"].get_secret_value())
            do(ctx.request.query.get("do", "nothing"))

    @hookimpl
    def pre_auth(self, ctx: Context, config: HostileConfig) -> None:
        self._act("pre_auth", ctx, config)
        if config.phase == "on_finish":
            ctx.on_finish(lambda outcome: self._act("on_finish", ctx, config))

    @hookimpl
    def auth(self, ctx: Context, config: HostileConfig) -> None:
        self._act("auth", ctx, config)
        ctx.authenticate("anybody")

    @hookimpl
    def post_auth(self, ctx: Context, config: HostileConfig) -> None:
        self._act("post_auth", ctx, config)

    @hookimpl
    def pre_proxy(self, ctx: Context, config: HostileConfig) -> None:
        self._act("pre_proxy", ctx, config)

    @hookimpl
    def post_proxy(self, ctx: Context, config: HostileConfig) -> None:
        self._act("post_proxy", ctx, config)

    @hookimpl
    def response(self, ctx: Context, config: HostileConfig) -> None:
        self._act("response", ctx, config)


#: What a plugin may put in the place of what belongs there, or try to change (X06, X10).
WRONG: dict[str, Callable[[Context, HostileConfig], object]] = {
    "return": lambda ctx, config: None,
    "response": lambda ctx, config: setattr(ctx, "response", "not a response"),
    "status": lambda ctx, config: setattr(ctx.response, "status", "200"),
    "header": lambda ctx, config: ctx.response_headers.add("X-A", "a\r\nX-B: b"),
    "abort_status": lambda ctx, config: ctx.abort("403"),  # type: ignore[arg-type]
    "abort_body": lambda ctx, config: ctx.abort(403, object()),
    "abort_headers": lambda ctx, config: ctx.abort(403, None, [1, 2]),  # type: ignore[list-item]
    "upstream": lambda ctx, config: setattr(ctx, "upstream", None),
    "items": lambda ctx, config: config.items.append("second"),
    "table": lambda ctx, config: config.table["a"].append("second"),
    "field": lambda ctx, config: setattr(config, "phase", "auth"),
    "route": lambda ctx, config: setattr(ctx.route, "path", "/"),
}


class Wrong(Plugin):
    """Leaves, changes or returns what it must not, where ``?wrong=`` says so."""

    name = "wrong"
    config_model = HostileConfig

    @hookimpl
    def pre_proxy(self, ctx: Context, config: HostileConfig) -> object:
        wrong = ctx.request.query.get("wrong", "")
        if wrong in WRONG and wrong != "status":
            WRONG[wrong](ctx, config)
        return {"status": 403} if wrong == "return" else None

    @hookimpl
    def post_proxy(self, ctx: Context, config: HostileConfig) -> None:
        if ctx.request.query.get("wrong") in ("response", "status"):
            WRONG[ctx.request.query["wrong"]](ctx, config)
        ctx.response_headers["X-Config"] = f"{config.phase} {list(config.items)} {list(config.table['a'])} {ctx.route and ctx.route.path}"


class Twice(Plugin):
    """Refuses, catches that, and refuses otherwise; two of its entries on a route refuse after one another."""

    name = "twice"

    @hookimpl
    def post_auth(self, ctx: Context) -> None:
        try:
            ctx.abort(403, {"error": "Forbidden"})
        except BaseException:
            ctx.abort(402, "second")


class Memory(Plugin):
    """Keeps what it knows of a request in ``ctx.state``, from the first phase to the last, and waits in between."""

    name = "memory"

    @hookimpl
    def pre_auth(self, ctx: Context) -> None:
        ctx.state["nonce"] = ctx.request.query["nonce"]
        ctx.on_finish(lambda outcome: self._note(ctx, outcome))

    @hookimpl
    def post_auth(self, ctx: Context) -> None:
        time.sleep(0.02)

    @hookimpl
    def response(self, ctx: Context) -> None:
        time.sleep(0.02)
        ctx.response_headers["X-Nonce"] = ctx.state["nonce"]

    def _note(self, ctx: Context, outcome: Outcome) -> None:
        log.info("finished nonce=%s asked=%s status=%d", ctx.state["nonce"], ctx.request.query["nonce"], outcome.status)
