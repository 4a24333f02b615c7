"""Endpoints about a canary: a configuration that serves a share of the clients beside the live one."""

from __future__ import annotations

from dataclasses import asdict

import orjson

from gwproxy.admin.answers import Answer, Refused
from gwproxy.admin.asked import AbortWanted, CanaryWanted
from gwproxy.admin.changing import MATCH, base_of, checked, conflict
from gwproxy.admin.endpoints import Call, Table
from gwproxy.admin.told import CanaryBegun, CanaryStatus, Promoted
from gwproxy.controlplane.candidates import Candidates
from gwproxy.controlplane.publish import Overtaken
from gwproxy.controlplane.rules import Rules
from gwproxy.errors import CommandFailed
from gwproxy.store.candidates import CandidateBusy, CandidateGone
from gwproxy.store.configuration import RevisionConflict
from gwproxy.store.deployments import WheelMissing

TABLE = Table()


@TABLE.add("GET", "/v1/canary", role="viewer", answer=CanaryStatus)
def read_canary(call: Call) -> Answer:
    """Return what both sides of the canary have answered: requests, errors and latencies, of all workers since it began.

    Without one, `last` says how the last one ended, and why.
    """
    return Answer(_candidates(call).status().as_data())


@TABLE.add("POST", "/v1/canary", role="operator", answer=CanaryBegun, body=CanaryWanted, status=201, headers=(MATCH,), refusals=(409,))
def start_canary(call: Call) -> Answer:
    """Serve a configuration to a share of the clients, and what is live to all others, until it is promoted or aborted.

    It is checked first as a change is. The same configuration again changes the share and the rules of the canary that it is.
    """
    wanted: CanaryWanted = call.body
    publisher = call.plane.publisher(call.caller.name)
    try:
        rules = Rules.of(wanted.abort_if, wanted.promote_after, wanted.min_requests)
    except CommandFailed as failed:
        raise Refused(422, str(failed)) from None
    base = base_of(call)
    prepared = checked(publisher, call, orjson.dumps(wanted.config), allow_empty=False, placed=False)
    try:
        publisher.expect(prepared, prepared.revision if base is None else base)
        begun = _candidates(call).canary(
            prepared.data,
            base=prepared.revision,
            share=wanted.share,
            rules=rules,
            comment=wanted.comment,
            detail=prepared.difference.summary(),
        )
    except Overtaken as overtaken:
        call.plane.record(call.caller.name, "canary", "refused", str(overtaken))
        raise conflict(overtaken) from None
    except (CandidateBusy, RevisionConflict) as refused:
        call.plane.record(call.caller.name, "canary", "refused", str(refused))
        raise Refused(409, str(refused)) from None
    warnings = [asdict(warning) for warning in prepared.warnings]
    told = {"id": begun.id, "digest": begun.digest, "base": begun.base, "share": begun.share}
    return Answer({**told, "changes": prepared.difference.as_data(), "warnings": warnings}, 201)


@TABLE.add("POST", "/v1/canary/promote", role="operator", answer=Promoted, refusals=(404, 409))
def promote_canary(call: Call) -> Answer:
    """Make the canary live for all clients, as a new revision. Workers have built it already, and serve it at once."""
    try:
        published = _candidates(call).promote()
    except CommandFailed as failed:
        raise Refused(404, str(failed)) from None
    except (CandidateGone, WheelMissing) as gone:
        raise Refused(409, str(gone)) from None
    return Answer({"outcome": "promoted", "revision": published.revision, "digest": published.digest})


@TABLE.add("POST", "/v1/canary/abort", role="operator", answer=CanaryStatus, body=AbortWanted, refusals=(404, 409))
def abort_canary(call: Call) -> Answer:
    """End the canary: all clients are served by the live configuration again, which was not changed."""
    candidates = _candidates(call)
    try:
        candidates.abort(call.body.reason)
    except CommandFailed as failed:
        raise Refused(404, str(failed)) from None
    except CandidateGone as gone:
        raise Refused(409, str(gone)) from None
    return Answer(candidates.status().as_data())


def _candidates(call: Call) -> Candidates:
    plane = call.plane
    return Candidates(plane.candidates, plane.store, plane.audit, call.caller.name)
