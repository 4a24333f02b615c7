"""No cross-talk, ever: crosstalk.py for a short time. ``python -m tests.e2e.crosstalk --seconds 600`` is the long run of the same."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.crosstalk import ROOT
from tests.e2e.nonces import content, difference

pytestmark = pytest.mark.e2e

SECONDS = 15

#: What a run must have seen to prove anything, and the least of it on a busy machine.
SEEN = {
    "answered": 2000,
    "limits checked": 300,
    "pipelined": 500,
    "401": 20,
    "413": 3,
    "502": 5,
    "cut": 10,
    "slow": 1,
    "aborts while sending": 10,
    "aborts while waiting": 10,
    "aborts while reading": 10,
    "stalls of Redis": 2,
}


def test_R14_R46_Q05_Q06_B11_every_client_gets_its_own_bytes() -> None:
    run = [sys.executable, "-m", "tests.e2e.crosstalk", "--seconds", str(SECONDS), "--clients", "200"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-8000:]
    report = json.loads(done.stdout)
    seen = report["done"]
    assert {name: count for name, count in SEEN.items() if seen.get(name, 0) < count} == {}, report


@pytest.mark.parametrize(
    ("spoil", "at"),
    [
        pytest.param(lambda body: body[:70] + b"x" + body[71:], 70, id="foreign byte"),
        pytest.param(lambda body: body[:70] + body[71:], 74, id="missing byte"),
        pytest.param(lambda body: body[:64] + body[96:] + b"-" * 32, 94, id="missing block"),
        pytest.param(lambda body: body + b"HTTP/1.1", 1000, id="bytes too many"),
        pytest.param(lambda body: body[:-1], 999, id="bytes too few"),
        pytest.param(lambda body: body[:500] + content("somebody-else-00", 1000)[500:], 512, id="another's rest"),
    ],
)
def test_the_clients_see_every_wrong_byte(spoil, at: int) -> None:  # type: ignore[no-untyped-def]
    body = content("0001-0000001-abc", 1000)
    assert difference(body, "0001-0000001-abc", 1000) is None
    assert difference(body[:500], "0001-0000001-abc", 1000, cut=True) is None
    said = difference(spoil(body), "0001-0000001-abc", 1000)
    assert said is not None
    assert said.startswith(f"byte {at} of ")
