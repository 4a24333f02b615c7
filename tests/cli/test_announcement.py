from __future__ import annotations

import socket

import pytest

from gwproxy.cli import announcement
from gwproxy.cli.announcement import Announcement, Listening
from gwproxy.errors import StoreUnavailable
from gwproxy.store.configuration import Live

SINCE = "2026-11-22T22:00:00.000Z"
LISTENING = Listening(("http://127.0.0.1:8080",), 2)


class Store:
    """What an announcement asks a store, answered by the test."""

    def __init__(self) -> None:
        self.found: list[dict[str, str]] | StoreUnavailable = []
        self.live = Live(b'[{"path": "/a", "upstream": "http://a"}]', 7)

    def workers(self) -> list[dict[str, str]]:
        if isinstance(self.found, StoreUnavailable):
            raise self.found
        return self.found

    def read(self) -> Live:
        return self.live


def worker(state: str, **fields: str) -> dict[str, str]:
    return {"host": socket.gethostname(), "started": "2026-11-22T22:00:01.000Z", "state": state, **fields}


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def subject(store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Announcement:
    monkeypatch.setattr(announcement, "_SLOWER", 0.0)
    return Announcement(store, "gw:", LISTENING, SINCE, said.append, lambda: said.append("next steps"))  # type: ignore[arg-type]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcement, "PATIENCE", 0.0)


def test_a_worker_that_serves_is_announced_once(subject: Announcement, store: Store, said: list[str]) -> None:
    subject.look()
    assert said == []
    store.found = [worker("starting"), worker("ready")]
    subject.look()
    subject.look()
    assert subject.over
    assert said == ["ready: http://127.0.0.1:8080 serves 1 route (revision 7), 2 workers", "next steps"]


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"started": "2026-11-22T21:59:59.999Z"}, {"started": ""}])
def test_somebody_elses_worker_is_not(subject: Announcement, store: Store, said: list[str], other: dict[str, str]) -> None:
    store.found = [worker("ready", **other)]
    subject.look()
    assert said == []


@pytest.mark.parametrize(
    ("data", "what"),
    [(b'{"routes": [1, 2, 3]}', "3 routes"), (b"[]", "0 routes"), (b"{", "what was valid last"), (b'{"routes": 7}', "what was valid last")],
)
def test_whatever_is_live_meanwhile(subject: Announcement, store: Store, said: list[str], data: bytes, what: str) -> None:
    store.found, store.live = [worker("ready")], Live(data, 8)
    subject.look()
    assert said[0] == f"ready: http://127.0.0.1:8080 serves {what} (revision 8), 2 workers"


def test_a_refusal_is_told_at_once_and_once(subject: Announcement, store: Store, said: list[str]) -> None:
    store.found = [worker("refused", error="gw:routes:1:1: no"), worker("refused", error="gw:routes:1:1: no")]
    subject.look()
    subject.look()
    assert said == ["the workers refuse the configuration: gw:routes:1:1: no"]
    store.found = [worker("ready")]
    subject.look()
    assert said[1].startswith("ready: ")


@pytest.mark.usefixtures("impatient")
def test_what_is_waited_for_is_told_once(subject: Announcement, store: Store, said: list[str]) -> None:
    store.found = [worker("starting")]
    subject.look()
    subject.look()
    store.found = StoreUnavailable("refused the connection")
    subject.look()
    subject.look()
    assert said == [
        "waiting for a configuration: SET gw:routes in the store, or name a file: gwproxy run gateway.yaml",
        "waiting for the store: refused the connection; what was served last is served meanwhile",
    ]


def test_nobody_is_told_to_wait_in_the_first_seconds(subject: Announcement, store: Store, said: list[str]) -> None:
    store.found = StoreUnavailable("not yet")
    subject.look()
    store.found = [worker("starting")]
    subject.look()
    assert said == []
