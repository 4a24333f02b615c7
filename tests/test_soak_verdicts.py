"""The soak's verdicts: each of them can be lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.soak_samples import Sample, StoreSample
from benchmarks.soak_verdicts import MIB, Run, judge

GOOD = Sample(0.0, 7, 70 * MIB, 30, 5, 0, 4, 0, 0.0, greenlets=10, snapshots=1, configs=6, upstreams=3, objects=1000)
DONE = {"requests": 100, "aborts": 1, "faults": 1, "malformed": 1, "websockets": 1, "restarts of Redis": 1, "configurations": 9}


def good(seconds: float = 7200.0) -> Run:
    samples = [replace(GOOD, at=float(at), clients=5, greenlets=20) for at in range(40)]
    store = [StoreSample(float(at), 12, 30, [], 1000 * at) for at in range(40)]
    latencies = [(float(at), 0.01) for at in range(7200)]
    return Run(seconds, {7: GOOD}, {7: GOOD}, samples, store, dict(DONE), [], latencies)


def results(run: Run) -> dict[str, str]:
    return {verdict.row: verdict.result for verdict in judge(run)}


def final(**values: int) -> Callable[[Run], None]:
    return lambda run: run.final.update({7: replace(GOOD, **values)})


def sampled(**values: float) -> Callable[[Run], None]:
    return lambda run: run.samples.append(replace(GOOD, **values))


def leaking(run: Run) -> None:
    for number, sample in enumerate(run.samples):
        sample.rss += number * MIB


def slowing(run: Run) -> None:
    run.latencies = [(at, took * 1.3 if at > 3600 else took) for at, took in run.latencies]


def test_a_good_run_holds_in_every_row() -> None:
    assert results(good()) == {f"S{number:02d}": "holds" for number in range(1, 12)}


def test_a_short_run_does_not_compare_hours() -> None:
    assert results(good(120.0))["S10"] == "not judged"


def test_a_run_too_short_for_a_restart_of_redis_does_not_judge_faults_but_a_wrong_byte() -> None:
    run = good(30.0)
    run.done["restarts of Redis"] = 0
    assert results(run)["S08"] == "not judged"
    run.violations.append("a foreign byte")
    assert results(run)["S08"] == "VIOLATED"


@pytest.mark.parametrize(
    ("row", "spoil"),
    [
        pytest.param("S01", leaking, id="S01-grows"),
        pytest.param("S02", final(files=9), id="S02-files"),
        pytest.param("S02", final(unattached=1), id="S02-sockets"),
        pytest.param("S02", final(clients=1), id="S02-clients"),
        pytest.param("S03", final(greenlets=14), id="S03"),
        pytest.param("S03", lambda run: run.final.update({7: replace(GOOD, greenlets=None)}), id="S03-unknown"),
        pytest.param("S04", sampled(close_wait=61.0), id="S04-close-wait"),
        pytest.param("S04", sampled(upstream=4000), id="S04-many"),
        pytest.param("S05", lambda run: run.store.append(StoreSample(1.0, 90, 3, [], 39_000)), id="S05"),
        pytest.param("S06", lambda run: run.store.append(StoreSample(1.0, 9, 3, ["gw:rl:x"], 39_000)), id="S06"),
        pytest.param("S07", final(snapshots=2), id="S07-snapshots"),
        pytest.param("S07", lambda run: run.done.update(configurations=0), id="S07-no-reloads"),
        pytest.param("S08", lambda run: run.violations.append("a foreign byte"), id="S08-wrong"),
        pytest.param("S08", lambda run: run.done.update(aborts=0), id="S08-no-faults"),
        pytest.param("S09", lambda run: run.store.append(StoreSample(1.0, 9, 3, [], 1 << 30)), id="S09"),
        pytest.param("S10", slowing, id="S10"),
        pytest.param("S11", final(configs=7), id="S11-configs"),
        pytest.param("S11", final(upstreams=4), id="S11-upstreams"),
    ],
)
def test_what_is_wrong_violates_its_row_alone(row: str, spoil: Callable[[Run], None]) -> None:
    run = good()
    spoil(run)
    assert [name for name, result in results(run).items() if result == "VIOLATED"] == [row]
