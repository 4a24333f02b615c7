"""The corpus as it is read: every file of ``corpus/`` is one section of the catalogue, every case of it a row, or a variant of one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "corpus"

_ID = re.compile(r"[A-Z][0-9]{2}-[a-z0-9-]+")
_KEYS = {"id", "why", "gateway", "send", "upstream", "answer", "then"}
_EXCHANGE_KEYS = {"connection", "gets", "sends", "ends"}

#: Bytes as the corpus spells them (:mod:`tests.wire.notation`), a word, or a mapping; README.md has the list.
Step = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What an upstream is to get, and does then.

    :ivar connection: which, counted from 1.
    :ivar gets: exactly.
    :ivar sends: then.
    :ivar ends: how the gateway is to end the connection after that: ``closed``, ``reset``, or ``cut`` for either, whatever came before;
        None: not looked at.
    """

    connection: int
    gets: str
    sends: tuple[Step, ...]
    ends: str | None


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the catalogue, or a variant of one. README.md says what may stand in each field.

    :ivar gateway: which of ``corpus/gateways.yaml`` it is played against.
    :ivar answer: exactly what the client gets in all; ``{"begins": ...}``: what it begins with.
    :ivar then: what the connection is afterwards: ``open`` (and in step: the next request is answered), ``closed``, ``reset`` or ``left``
        (the client has closed it).
    """

    id: str
    why: str
    gateway: str
    send: tuple[Step, ...]
    upstream: tuple[Exchange, ...]
    answer: str | Mapping[str, str]
    then: str


@cache
def cases(section: str) -> tuple[Case, ...]:
    """Read one file of the corpus, e.g. ``2.1-requests``."""
    document = yaml.load((FOLDER / f"{section}.yaml").read_text(), yaml.CSafeLoader)
    written = [variant for entry in document["cases"] for variant in _variants(entry)]
    found = tuple(_case(entry, document.get("defaults", {})) for entry in written)
    assert len({case.id for case in found}) == len(found), f"an id stands twice in {section}"
    return found


def sections() -> Iterator[str]:
    """Yield the names of the files."""
    yield from sorted(path.stem for path in FOLDER.glob("[0-9]*.yaml"))


def _variants(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield one entry for each line of ``each``, with ``{sent}`` (and ``{seen}``) replaced; the entry itself if it has no ``each``."""
    if "each" not in entry:
        yield entry
        return
    for name, values in entry["each"].items():
        sent, seen = values if isinstance(values, list) else (values, values)
        shared = {key: value for key, value in entry.items() if key not in ("each", "id")}
        yield {"id": f"{entry['id']}-{name}", **_replaced(shared, sent, seen)}


def _replaced(written: Any, sent: str, seen: str) -> Any:
    if isinstance(written, str):
        return written.replace("{sent}", sent).replace("{seen}", seen)
    if isinstance(written, list):
        return [_replaced(one, sent, seen) for one in written]
    if isinstance(written, dict):
        return {key: _replaced(one, sent, seen) for key, one in written.items()}
    return written


def _case(entry: Mapping[str, Any], defaults: Mapping[str, Any]) -> Case:
    assert entry.keys() <= _KEYS, f"unknown keys: {entry.keys() - _KEYS}"
    assert _ID.fullmatch(entry["id"]), entry["id"]
    answer = entry.get("answer", "ok")
    refused = isinstance(answer, str) and answer.endswith(" by parser")
    return Case(
        id=entry["id"],
        why=entry["why"],
        gateway=entry.get("gateway", "default"),
        send=_steps(entry.get("send", defaults.get("send"))),
        upstream=tuple(_exchanges(entry.get("upstream", {}), defaults)),
        answer=answer,
        then=entry.get("then", "closed" if refused else "open"),
    )


def _exchanges(written: Any, defaults: Mapping[str, Any]) -> Iterator[Exchange]:
    if written == "nothing":
        return
    for one in written if isinstance(written, list) else [written]:
        exchange = {"gets": one} if isinstance(one, str) else one
        assert exchange.keys() <= _EXCHANGE_KEYS, f"unknown keys: {exchange.keys() - _EXCHANGE_KEYS}"
        gets = exchange.get("gets", defaults.get("gets"))
        yield Exchange(exchange.get("connection", 1), gets, _steps(exchange.get("sends", "ok")), exchange.get("ends"))


def _steps(written: Any) -> tuple[Step, ...]:
    steps = tuple(written) if isinstance(written, list) else (written,)
    assert all(isinstance(step, str | dict) for step in steps), f"no steps: {steps}"  # YAML has words that are no text
    return steps
