"""Endpoints that answer questions: what would become of a request, what lies between two revisions, who did what."""

from __future__ import annotations

from typing import Any

import orjson

from gwproxy.admin.answers import Answer, Refused
from gwproxy.admin.asked import Between, ExplainWanted
from gwproxy.admin.bodies import FILE
from gwproxy.admin.endpoints import Call, Table
from gwproxy.admin.told import Explained, RevisionsCompared
from gwproxy.controlplane.difference import difference
from gwproxy.controlplane.history import tree_of
from gwproxy.controlplane.trial import Rehearsal
from gwproxy.errors import CommandFailed
from gwproxy.http.headers import check_field
from gwproxy.model import Problem

TABLE = Table()


@TABLE.add("POST", "/v1/explain", role="viewer", answer=Explained, body=ExplainWanted, refusals=(404,))
def explain(call: Call) -> Answer:
    """Say which route a request takes and why each other does not, and what happens on the way. Nothing is sent and no plugin runs.

    The live configuration is asked, or a past `revision`, or a `config` that comes with the question. Secrets are masked.
    """
    wanted: ExplainWanted = call.body
    data, name = _asked(call, wanted)
    fields = [(field, value) for field, value in wanted.headers.items()]
    for field, value in fields:
        try:
            check_field(field, value)
        except ValueError as error:
            problem = Problem(f"headers.{field}"[:80], "no header field", str(error))
            raise Refused(422, "the body is not what is expected here", problems=[problem]) from None
    settings = call.plane.settings
    try:
        rehearsal = Rehearsal.of(
            data,
            name,
            call.plane.registry,
            trusted=settings.trusted_proxies,
            may_reference=settings.may_reference,
            lenient=wanted.config is None,
        )
        return Answer(rehearsal.as_data(rehearsal.try_out(wanted.method, wanted.url, fields)))
    except CommandFailed as failed:
        raise Refused(422, str(failed)) from None


def _asked(call: Call, wanted: ExplainWanted) -> tuple[bytes, str]:
    if wanted.config is not None and wanted.revision is not None:
        raise Refused(422, "config and revision exclude each other")
    if wanted.config is not None:
        return orjson.dumps(wanted.config), FILE
    if wanted.revision is not None:
        found = call.plane.store.revision(wanted.revision)
        if found is None:
            raise Refused(404, f"there is no revision {wanted.revision} in the history")
        return found.configuration, f"revision {wanted.revision}"
    live = call.plane.store.read().data
    if live is None:
        raise Refused(404, "there is no configuration")
    return live, "gw:routes"


@TABLE.add("GET", "/v1/diff", role="viewer", answer=RevisionsCompared, query=Between, refusals=(404,))
def compare_revisions(call: Call) -> Answer:
    """Say what differs between two revisions of the history, field by field, with secrets as `***`."""
    found = []
    for number in (call.query.before, call.query.after):
        revision = call.plane.store.revision(number)
        if revision is None:
            raise Refused(404, f"there is no revision {number} in the history")
        found.append(tree_of(revision))
    told: dict[str, Any] = {"before": call.query.before, "after": call.query.after}
    return Answer({**told, "changes": difference(found[0], found[1], call.plane.registry).as_data()})
