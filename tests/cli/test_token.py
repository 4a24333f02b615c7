from __future__ import annotations

import json

import pytest
import redis

from gwproxy.store.tokens import MOST, TokenStore


def test_one_is_made_printed_once_listed_and_revoked(cli, store: redis.Redis) -> None:
    made = cli("token", "create", "ci", "--role", "operator")
    assert (made.status, made.err) == (0, "")
    secret = made.out.strip()
    assert secret.startswith("gwp_")
    found = TokenStore(store).find(secret)
    assert found is not None
    assert (found.name, found.role, found.expires) == ("ci", "operator", None)
    listed = cli("token", "list").out
    assert "ci    operator" in listed
    assert secret not in listed
    assert cli("token", "revoke", "ci").status == 0
    assert TokenStore(store).find(secret) is None
    assert json.loads(cli("token", "list", "--json").out) == []


def test_one_expires(cli, store: redis.Redis) -> None:
    made = json.loads(cli("token", "create", "short", "--role", "viewer", "--expires", "30d", "--json").out)
    (listed,) = json.loads(cli("token", "list", "--json").out)
    assert listed["expires"] == made["expires"]
    assert listed["expired"] is False
    held = store.hget("gw:tokens", "short")
    assert held is not None
    store.hset("gw:tokens", "short", held.replace(b'"expires":"2', b'"expires":"1'))
    assert TokenStore(store).find(made["token"]) is None
    assert "expired" in cli("token", "list").out


@pytest.mark.parametrize(
    ("argv", "status", "why"),
    [
        (("create", "ci"), 2, "--role"),
        (("create", "ci", "--role", "root"), 2, "root"),
        (("create", "ci", "--role", "viewer", "--expires", "soon"), 2, "is no time such as 90m"),
        (("create", "ci", "--role", "viewer", "--expires", "99999w"), 2, "is no time such as 90m"),
        (("create", "a b", "--role", "viewer"), 1, "is no name for a token"),
        (("create", "admin", "--role", "viewer"), 1, "is the name of the token in the state folder"),
        (("revoke", "nobody"), 1, "there is no token 'nobody'"),
    ],
)
def test_what_cannot_be(cli, store: redis.Redis, argv: tuple[str, ...], status: int, why: str) -> None:
    result = cli("token", *argv)
    assert result.status == status
    assert why in result.err


def test_a_name_is_taken_once_and_who_did_what_is_recorded(cli, store: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWPROXY_ACTOR", "ann")
    cli("token", "create", "ci", "--role", "viewer")
    again = cli("token", "create", "ci", "--role", "admin")
    assert again.status == 1
    assert "there is a token 'ci'" in again.err
    cli("token", "revoke", "ci")
    entries = [json.loads(line) for line in cli("audit", "--json").out.splitlines()]
    assert [(entry["actor"], entry["action"], entry["outcome"]) for entry in entries] == [
        ("ann", "token create", "done"),
        ("ann", "token create", "refused"),
        ("ann", "token revoke", "done"),
    ]
    lines = cli("audit", "-n", "1").out.splitlines()
    assert lines[0].endswith("  done  ann  token revoke  ci")


def test_there_are_not_too_many(cli, store: redis.Redis) -> None:
    store.hset("gw:tokens", mapping={str(number): b"{}" for number in range(MOST)})
    assert "there are 1000 tokens" in cli("token", "create", "ci", "--role", "viewer").err


@pytest.mark.parametrize(
    "held", [b"", b"{", b"[]", b"7", b"{}", b'{"sha256": 7, "role": "admin", "created": "", "created_by": "", "expires": null}']
)
def test_what_somebody_else_has_written_opens_nothing(store: redis.Redis, held: bytes) -> None:
    store.hset("gw:tokens", "strange", held)
    assert TokenStore(store).all() == []
    assert TokenStore(store).find("") is None
