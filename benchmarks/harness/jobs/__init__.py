"""The jobs of the table: each measures one thing, side by side where there is something beside it, and says it in rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.bench import Bench
from harness.jobs.capacity import idle, memory, workers
from harness.jobs.changes import applying, reapplied, routes
from harness.jobs.comparisons import bare, five_plugins, large_bodies, latency, one_more_plugin
from harness.report import Result

JOBS: Mapping[str, Callable[[Bench], Result]] = {
    "bare": bare,
    "five-plugins": five_plugins,
    "one-more-plugin": one_more_plugin,
    "routes": routes,
    "reapplied": reapplied,
    "large-bodies": large_bodies,
    "latency": latency,
    "memory": memory,
    "workers": workers,
    "idle": idle,
    "applying": applying,
}
