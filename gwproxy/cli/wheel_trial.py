"""A deployment tried here, before any worker is asked: in a process of its own, since a wheel's code runs in it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from gwproxy.controlplane.deploying import Deployer, Planned
from gwproxy.controlplane.installed import Installed, live
from gwproxy.errors import ConfigurationRefused, WheelRefused
from gwproxy.model import Problem
from gwproxy.settings import Settings

PATIENCE = 60.0  # seconds

#: What the process runs: patched before anything else is imported, as a worker is.
PROGRAM = "from gevent import monkey; monkey.patch_all(); from gwproxy.controlplane.judging import main; main()"


def try_here(deployer: Deployer, planned: Planned, wheels: Mapping[str, bytes], settings: Settings) -> str | None:
    """Load all wheels of a deployment as a worker would, and judge the live configuration by them.

    :param wheels: those that are not in the store yet, by SHA-256.
    :return: why that could not be tried here: something that the workers may have is missing. None: it was, and all is well.
    :raises WheelRefused: one does not load.
    :raises ConfigurationRefused: the live configuration does not fit the plugins.
    """
    held = {pinned.sha256: wheels.get(pinned.sha256) for pinned in planned.after}
    for sha256, data in held.items():
        if data is None:
            stored = deployer.store.wheel(sha256)
            if stored is None:
                return f"the wheel with the digest {sha256} is not in the store"
            held[sha256] = stored.data
    encoded = [base64.b64encode(data or b"").decode() for data in held.values()]
    configuration = deployer.configurations.read().data
    asked = {
        "wheels": encoded,
        "configuration": base64.b64encode(configuration or b"").decode(),
        "elsewhere": sorted(Installed(live(deployer.configurations.workers())).anywhere()),
        "env_allow": settings.env_allow,
    }
    answer = _ask(asked)
    if refused := answer.get("refused"):
        raise WheelRefused(refused)
    if problems := answer.get("problems"):
        raise ConfigurationRefused([Problem(**problem) for problem in problems])
    untried: str | None = answer.get("untried")
    return untried


def _ask(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Have it tried in a process of its own.

    :raises WheelRefused: the wheel's code has ended that process, or does not come to an end.
    """
    command = [sys.executable, "-P", "-c", PROGRAM]
    try:
        # By stdin: a configuration may hold secrets, and everybody can read command lines.
        done = subprocess.run(command, input=json.dumps(asked).encode(), stdout=subprocess.PIPE, timeout=PATIENCE, check=False)  # noqa: S603 - ourselves
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise WheelRefused(f"it was not imported after {PATIENCE:.0f} s") from None
    except ValueError:
        raise WheelRefused(f"importing it has ended the process in which it was tried, with status {done.returncode}") from None
    return answer
