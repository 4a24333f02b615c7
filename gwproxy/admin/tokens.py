"""Endpoints for those who say who may ask."""

from __future__ import annotations

from typing import Any

from gwproxy.admin.answers import Answer, Refused
from gwproxy.admin.asked import TokenWanted
from gwproxy.admin.endpoints import Call, Table
from gwproxy.admin.told import TokenMade, Tokens
from gwproxy.errors import CommandFailed
from gwproxy.store.tokens import Token

TABLE = Table()


def _shown(token: Token) -> dict[str, Any]:
    names = ("name", "role", "created", "created_by", "expires", "expired")
    return {name: getattr(token, name) for name in names}


@TABLE.add("GET", "/v1/tokens", role="admin", answer=Tokens)
def list_tokens(call: Call) -> Answer:
    """List the tokens that were made: names, roles, who made them, when they expire. Not the tokens themselves."""
    return Answer({"tokens": [_shown(token) for token in call.plane.tokens.all()]})


@TABLE.add("POST", "/v1/tokens", role="admin", answer=TokenMade, body=TokenWanted, status=201, refusals=(409,))
def create_token(call: Call) -> Answer:
    """Make a token. It is kept as a hash only: this answer is the one that holds it."""
    wanted: TokenWanted = call.body
    plane, actor = call.plane, call.caller.name
    try:
        token, secret = plane.tokens.create(wanted.name, wanted.role, by=actor, lifetime=wanted.expires_in)
    except CommandFailed as failed:
        plane.record(actor, "token create", "refused", str(failed))
        raise Refused(409, str(failed)) from None
    plane.record(actor, "token create", "done", f"{token.name}, {token.role}, expires {token.expires or 'never'}")
    return Answer({**_shown(token), "token": secret}, 201)


@TABLE.add("DELETE", "/v1/tokens/{name}", role="admin", answer=None, status=204, refusals=(404,))
def revoke_token(call: Call) -> Answer:
    """Revoke a token. It opens nothing from this moment on, streams that it has open included."""
    if not call.plane.tokens.revoke(call.path["name"]):
        raise Refused(404, f"there is no token {call.path['name']!r}")
    call.plane.record(call.caller.name, "token revoke", "done", call.path["name"])
    return Answer(None, 204)
