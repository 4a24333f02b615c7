"""The trial of a plugin: its configuration looked at, then requests sent through it and what it does with them."""

from __future__ import annotations

import gc
import re
from statistics import median
from typing import Any

from gwproxy.errors import HttpError, PluginRefused, StoreUnavailable
from gwproxy.plugin import Plugin
from gwproxy.testing.answer import Answer
from gwproxy.testing.conformance.fields import look_at_model, look_at_sample
from gwproxy.testing.conformance.finding import Report
from gwproxy.testing.conformance.held import Holding
from gwproxy.testing.conformance.inputs import JSON, OTHER_JSON, PLAIN, Input, bad, headers_of, streams
from gwproxy.testing.conformance.kept import changed, kept
from gwproxy.testing.gateway import UPSTREAM, InProcessGateway, package_of
from gwproxy.testing.upstream import Reply

BUDGET_US = 500.0  # microseconds of a plain request
HOLD_MS = 50.0  # milliseconds without a turn of the loop: every other request of the worker is that much later
MEASURED = 200  # requests

_VARYING = re.compile(rb"[0-9a-f.]+")  # in log entries: times, sizes and ids


def conform(
    plugin: type[Plugin], config: dict[str, Any] | None = None, *, budget_us: float = BUDGET_US, hold_ms: float = HOLD_MS
) -> Report:
    """Try a plugin by every rule.

    Blocking is told from waiting only in a process that is patched as a worker's: see ``gwproxy plugins check``.

    :param config: to try it with; None: its defaults.
    """
    report = Report(getattr(plugin, "name", "") or plugin.__name__)
    with InProcessGateway() as gateway:
        try:
            instance = gateway.add(plugin)
        except PluginRefused as refused:
            report.add("loads", report.plugin, refused.reason)
            return report
        look_at_model(instance, report)
        if look_at_sample(instance, config or {}, report):
            _Trial(gateway, instance, config or {}, report, hold_ms / 1000).run(budget_us)
    return report


class _Trial:
    def __init__(self, gateway: InProcessGateway, plugin: Plugin, config: dict[str, Any], report: Report, hold: float) -> None:
        self.gateway, self.plugin, self.report, self.hold = gateway, plugin, report, hold
        self.package = package_of(plugin)
        self.headers = headers_of(self.package, plugin.config_model.model_validate(config))
        self.holding = Holding(self.package)
        self.raised: set[tuple[str, type[BaseException]]] = set()
        self.blocking = False  # a plain request: the rest is tried with fewer
        entry = {"name": plugin.name, "config": config}
        gateway.serve({"plugins": [entry], "routes": [{"path": "/x", "upstream": UPSTREAM, "websocket": True}]})

    def run(self, budget_us: float) -> None:
        self.gateway.clock.advance(0)  # what modules see of it stays the same from here on
        try:
            self.send(PLAIN)  # what is made at the first request, and stays, is no state
            gc.collect()  # what dies in a circle meanwhile, and leaves a weak dictionary, no request has written
            before = kept(self.plugin, self.package)
            self.look_at_blocking(PLAIN)
            for one in bad([] if self.blocking else self.headers):
                self.look_at_errors(one)
                self.look_at_state(before)
            self.look_at_streams()
            self.look_at_cost(budget_us)
            self.look_at_state(before)
        finally:
            self.holding.close()

    def send(self, one: Input) -> Answer:
        self.report.requests += 1
        self.gateway.store.away = one.away
        self.gateway.upstream.answering = lambda seen: one.reply
        return self.gateway.request(one.method, one.url, around=self.holding, **one.parts)

    def look_at_state(self, before: dict[str, object]) -> None:
        for name in changed(before, kept(self.plugin, self.package)):
            self.report.add("state", name, "requests have written it")

    def look_at_blocking(self, one: Input) -> None:
        """Look at the shortest of three times: a busy machine holds processes, too."""
        held: dict[str, list[float]] = {}
        for _ in range(3):
            self.holding.clear()
            self.send(one)
            for phase, seconds in self.holding.longest.items():
                held.setdefault(phase, []).append(seconds)
        for phase, times in held.items():
            if min(times) > self.hold:
                self.blocking = True
                where = self.holding.lines.get(phase, phase)
                self.report.add("blocks", where, f"{phase} holds the worker for {min(times) * 1000:.0f} ms")
        for phase, path in self.holding.opened.items():
            self.report.add("blocks", phase, f"it opens {path} for every request: a disk that is slow holds the worker")

    def look_at_errors(self, one: Input) -> None:
        self.holding.clear()
        answer = self.send(one)
        for traced in answer.trace:
            error = traced.error
            if error is None or isinstance(error, (HttpError, StoreUnavailable)):
                continue
            where = f"{traced.phase}{_line(error, self.package)}"
            if (where, type(error)) not in self.raised:  # one input that shows it is enough
                self.raised.add((where, type(error)))
                self.report.add("bad_input", where, f"{one.name}: {traced.detail[:200]}")
        if not self.blocking and max(self.holding.longest.values(), default=0.0) > self.hold:
            self.look_at_blocking(one)

    def look_at_streams(self) -> None:
        for name, one in streams():
            for traced in self.send(one).trace:
                if traced.read:
                    self.report.add("streams", traced.phase, f"it reads {name} to its end before anything is passed on")
        outcomes, readers = [], {}
        for body in (JSON, OTHER_JSON):
            json = [("Content-Type", "application/json")]
            reply = Reply(headers=json, body=(body[:4], body[4:]))
            self.gateway.store.logged.clear()
            answer = self.send(Input("json", "POST", parts={"headers": json, "body": [body]}, reply=reply))
            readers.update({traced.phase: traced.read for traced in answer.trace if traced.read})
            logged = {name: [_VARYING.sub(b"", entry) for entry in entries] for name, entries in self.gateway.store.logged.items()}
            outcomes.append((answer.decisions, answer.status, answer.body == body, [seen.body == body for seen in answer.seen], logged))
        if outcomes[0] == outcomes[1]:
            for phase, bodies in readers.items():
                self.report.add("streams", phase, f"it reads the {' and the '.join(bodies)} body, and does the same whatever that holds")

    def look_at_cost(self, budget_us: float) -> None:
        costs = []
        for _ in range(5 if self.blocking else MEASURED):
            costs.append(sum(traced.seconds for traced in self.send(PLAIN).trace) * 1e6)
            self.gateway.clock.advance(1.0)
        self.report.cost_us = round(median(costs), 1)
        if self.report.cost_us > budget_us:
            self.report.add("cost", self.plugin.name, f"{self.report.cost_us:.0f} us, the budget is {budget_us:.0f} us")


def _line(error: BaseException, package: str) -> str:
    """Return where in the plugin's own code an error was raised; empty if nowhere."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module == package or module.startswith(f"{package}."):
            found = f" (line {trace.tb_lineno} of {module})"
        trace = trace.tb_next
    return found
