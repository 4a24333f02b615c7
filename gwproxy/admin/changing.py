"""Endpoints that change the configuration, as a whole or one thing of it; the way is that of ``gwproxy apply``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, TypeVar

import orjson

from gwproxy.admin.answers import Answer, Refused
from gwproxy.admin.asked import Changing, Configuration, Made, Replacing, RollbackWanted
from gwproxy.admin.bodies import FILE
from gwproxy.admin.endpoints import Call, Function, Method, Table
from gwproxy.admin.parts import KINDS, Part, merged
from gwproxy.admin.told import Changed, Compared, Item, Validation
from gwproxy.controlplane.publish import Overtaken, Prepared, Publisher
from gwproxy.controlplane.rollout import Rollout
from gwproxy.controlplane.text import read
from gwproxy.errors import CommandFailed, ConfigurationRefused
from gwproxy.model import Problem
from gwproxy.store.configuration import Latest, Published

TABLE = Table()

_ATTEMPTS = 3  # of a change of one thing, if others change others meanwhile
_ETAG = re.compile(r'"([0-9]{1,15})"')

MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": 'The `ETag` of what the change was made from, such as `"7"`; `*` for whatever is live. If it is stale: 409.',
    "schema": {"type": "string", "pattern": r'^(\*|"[0-9]{1,15}")$'},
}
_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "`*` instead of `If-Match`: only if there is no configuration yet.",
    "schema": {"type": "string", "enum": ["*"]},
}
_WHOLE = (MATCH, _NONE_MATCH)
_CHANGE: dict[str, Any] = {"role": "operator", "answer": Changed, "refusals": (202, 404, 409), "headers": (MATCH,), "query": Changing}


def base_of(call: Call) -> int | None:
    """Return the revision that ``If-Match`` names; None: there is none, or any will do.

    :raises Refused: 400: it is no tag of this API's.
    """
    given = call.request.headers.get("If-Match", "*").strip()
    if given == "*":
        return None
    match = _ETAG.fullmatch(given)
    if match is None:
        raise Refused(400, f'If-Match is {given!r}; it must be an ETag of this API, such as "7", or *')
    return int(match[1])


# ---- the whole


@TABLE.add(
    "PUT",
    "/v1/config",
    role="operator",
    answer=Changed,
    body=Configuration,
    document=True,
    query=Replacing,
    headers=_WHOLE,
    refusals=(202, 409, 428),
)
def replace_config(call: Call) -> Answer:
    """Make a configuration live, as a new revision.

    `If-Match` is required: the `ETag` of what it was made from. If somebody else has changed the configuration since: 409, naming who
    changed what. It is checked by the plugins that are installed here and by those that the live workers have. Secrets that it holds
    as `***` stay as they are. With `wait` the answer comes when every live worker runs it: 200; or names those that do not: 202.
    """
    publisher = call.plane.publisher(call.caller.name)
    if "If-Match" not in call.request.headers:
        if call.request.headers.get("If-None-Match", "").strip() != "*":
            raise Refused(428, "If-Match is required: the ETag of the configuration that this one was made from, or *")
        _must_be_first(publisher)
    base = base_of(call)
    prepared = checked(publisher, call, call.data, allow_empty=call.query.allow_empty)
    return carried_out(publisher, prepared, call, base)


def _must_be_first(publisher: Publisher) -> None:
    live = publisher.live()
    if live.data is not None:
        raise Refused(409, f"there is a configuration already: revision {live.revision}", fields=(etag(live),))


def etag(live: Latest) -> tuple[str, str]:
    """Return the field that names the version of what is live."""
    return ("ETag", f'"{live.revision or 0}"')


@TABLE.add("POST", "/v1/validate", role="viewer", answer=Validation, body=Configuration, document=True)
def validate(call: Call) -> Answer:
    """Say what is wrong with a configuration, if anything. Nothing is changed.

    It is checked as a change is: by the plugins that are installed here and by those that the live workers have.
    """
    try:
        prepared = call.plane.publisher(call.caller.name).check(call.data, FILE, allow_empty=True, trial=True)
    except ConfigurationRefused as refused:
        return Answer({"valid": False, "problems": refused.problems, "warnings": []})
    return Answer({"valid": True, "problems": [], "warnings": prepared.warnings})


@TABLE.add("POST", "/v1/diff", role="viewer", answer=Compared, body=Configuration, document=True)
def compare(call: Call) -> Answer:
    """Say what a configuration would change, field by field, with secrets as `***`. Nothing is changed."""
    publisher = call.plane.publisher(call.caller.name)
    prepared = publisher.check(call.data, FILE, allow_empty=True, trial=True)
    told = {"base": prepared.revision, "unchanged": prepared.unchanged, "changes": prepared.difference.as_data()}
    return Answer({**told, "warnings": prepared.warnings}, fields=(etag(prepared.base),))


@TABLE.add(
    "POST",
    "/v1/rollback",
    role="operator",
    answer=Changed,
    body=RollbackWanted,
    query=Changing,
    headers=(MATCH,),
    refusals=(202, 404, 409),
)
def roll_back(call: Call) -> Answer:
    """Make an earlier revision live again, as a new, higher one. It is checked first: plugins may have come and gone since."""
    publisher = call.plane.publisher(call.caller.name)
    number = call.body.revision
    if call.plane.store.revision(number) is None:
        raise Refused(404, f"there is no revision {number} in the history")
    prepared = publisher.check_rollback(number)
    return carried_out(publisher, prepared, call, base_of(call), f"rollback to revision {number}")


# ---- one thing of it


def _document(call: Call) -> tuple[Any, Latest]:
    """Return the live document, secrets and all, and its revision.

    :raises Refused: 404: there is none; 409: what is there is none.
    """
    live = call.plane.publisher(call.caller.name).live()
    if live.data is None:
        raise Refused(404, "there is no configuration")
    try:
        return read(live.data, "gw:routes").tree, live
    except ConfigurationRefused as refused:
        raise Refused(409, "what is in the store is no configuration", problems=refused.problems) from None


def _change(call: Call, edit: Callable[[Part], None]) -> Answer:
    """Edit one thing of the live document and publish it; without ``If-Match``, on top of whatever others change meanwhile."""
    publisher, base = call.plane.publisher(call.caller.name), base_of(call)
    for attempt in range(1, _ATTEMPTS + 1):
        tree, live = _document(call)
        part = Part(tree, KINDS[call.path["kind"]], call.path["id"])
        edit(part)
        prepared = checked(publisher, call, orjson.dumps(part.tree), allow_empty=True, placed=False)
        made_from = live.revision or 0
        try:
            if base is None and attempt < _ATTEMPTS:
                publisher.expect(prepared, made_from)
        except Overtaken:
            continue
        return carried_out(publisher, prepared, call, made_from if base is None else base)
    raise AssertionError("unreachable: the last attempt returns or raises")


F = TypeVar("F", bound=Function)


def each_kind(method: Method, below: str = "", **more: Any) -> Callable[[F], F]:
    """Decorate a function that does the same for routes, upstreams and consumers."""

    def register(function: F) -> F:
        for kind in KINDS:
            TABLE.add(method, f"/v1/{kind}{below}", of=kind, **more)(function)
        return function

    return register


@each_kind("GET", role="viewer", answer=dict[str, Item], refusals=(404, 409))
def list_parts(call: Call) -> Answer:
    """Return all routes, upstreams or consumers by id or name, as they were written, with secrets as `***`."""
    tree, live = _document(call)
    kind = KINDS[call.path["kind"]]
    return Answer(kind.masked_all(tree, call.plane.registry), fields=(etag(live),))


@each_kind("GET", "/{id}", role="viewer", answer=Item, refusals=(404, 409))
def read_part(call: Call) -> Answer:
    """Return one route, upstream or consumer as it was written, with secrets as `***`.

    A route that was written without an id has one that is made of its path.
    """
    tree, live = _document(call)
    kind = KINDS[call.path["kind"]]
    Part(tree, kind, call.path["id"]).value()
    return Answer(kind.masked_all(tree, call.plane.registry)[call.path["id"]], fields=(etag(live),))


@each_kind("PUT", "/{id}", body=Made, **_CHANGE)
def replace_part(call: Call) -> Answer:
    """Replace one route, upstream or consumer, or add it: a route at the end of the list. Secrets sent as `***` stay as they are."""
    return _change(call, lambda part: part.put(call.body))


@each_kind("PATCH", "/{id}", body=Made, media="application/merge-patch+json", **_CHANGE)
def patch_part(call: Call) -> Answer:
    """Change some fields of one route, upstream or consumer: a JSON Merge Patch (RFC 7396), in which null removes a field.

    Lists, that of a route's plugins included, are replaced as a whole; secrets sent as `***` stay as they are.
    """
    return _change(call, lambda part: part.put(merged(part.value(), call.body)))


@each_kind("DELETE", "/{id}", **_CHANGE)
def delete_part(call: Call) -> Answer:
    """Remove one route, upstream or consumer."""
    return _change(call, lambda part: part.remove())


# ---- how


def checked(publisher: Publisher, call: Call, data: bytes, *, allow_empty: bool, placed: bool = True) -> Prepared:
    """Judge what is to be published.

    :param placed: whether ``data`` is what the client sent: else lines and columns would tell it nothing.
    :raises ConfigurationRefused: with every problem.
    :raises Refused: 422: it has no routes, and that was not said to be meant.
    """
    try:
        return publisher.check(data, FILE, allow_empty=allow_empty)
    except CommandFailed:
        raise Refused(422, "a configuration without routes answers 404 to all; allow_empty=true says that this is meant") from None
    except ConfigurationRefused as refused:
        if placed:
            raise
        raise ConfigurationRefused([_unplaced(problem) for problem in refused.problems]) from None


def _unplaced(problem: Problem) -> Problem:
    return replace(problem, line=0, column=0, file="")


def carried_out(publisher: Publisher, prepared: Prepared, call: Call, base: int | None, comment: str = "") -> Answer:
    """Publish what was judged, unless it is live already, and wait for the workers if asked to.

    :param base: the revision it was made from; None: what it was compared with.
    :raises Refused: 409: that is not the live one; names who changed what since.
    """
    told: dict[str, Any] = {"changes": prepared.difference.as_data(), "warnings": [asdict(warning) for warning in prepared.warnings]}
    if prepared.unchanged and base in (None, prepared.revision):
        published, outcome = Published(prepared.revision, prepared.digest), "unchanged"
    else:
        try:
            published, outcome = publisher.commit(prepared, call.query.comment or comment, base), "applied"
        except Overtaken as overtaken:
            raise conflict(overtaken) from None
    told |= {"outcome": outcome, "revision": published.revision, "digest": published.digest, "rollout": None}
    status = 200
    if call.query.wait:
        standing = Rollout(call.plane.store, published, timeout=call.query.wait, known=prepared.workers).follow()
        told["rollout"] = standing.as_data()
        status = 200 if standing.outcome == "done" else 202
    return Answer(told, status, (("ETag", f'"{published.revision}"'),))


def conflict(overtaken: Overtaken) -> Refused:
    """Return the refusal that names who changed what since."""
    since = [change.as_data() for change in overtaken.since]
    told = {"base": overtaken.base, "revision": overtaken.revision, "actor": overtaken.actor, "at": overtaken.at, "since": since}
    return Refused(409, str(overtaken), fields=(("ETag", f'"{overtaken.revision}"'),), more={"conflict": told})
