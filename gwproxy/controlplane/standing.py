"""What a worker runs, as it tells others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Standing:
    """What this worker runs, or why it does not run what it should.

    :ivar state: ``starting``, ``ready``, ``refused`` or ``draining``.
    :ivar error: why the newest configuration is not run; empty if it is.
    :ivar refused: the digest of the configuration that is not run because it was judged; empty if there is none.
    :ivar applied_at: seconds since 1970; 0.0 before the first.
    :ivar build_ms: milliseconds it took to make what runs.
    :ivar deployment_refused: the digest of the deployment that is not run because it was judged; empty if there is none.
    :ivar deployment_error: why it is not run; empty if none was refused.
    """

    state: str = "starting"
    revision: int = 0
    digest: str = ""
    error: str = ""
    refused: str = ""
    applied_at: float = 0.0
    build_ms: float = 0.0
    deployment_refused: str = ""
    deployment_error: str = ""
