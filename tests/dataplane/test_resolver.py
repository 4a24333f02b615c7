"""Lookups, against a real DNS server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gwproxy.dataplane.names import LookupFailed, Question, Record
from gwproxy.dataplane.resolver import look_up
from tests.dns_service import records, serve, write_zone
from tests.e2e.conftest import free_port


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dns")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    port = free_port()
    zone = {
        "A users.internal": records("10.0.0.2", "10.0.0.1", ttl=7),
        "AAAA users.internal": records("fd00::1"),
        "CNAME alias.internal": records("users.internal", ttl=3),
        "SRV _http._tcp.users.internal": records("0 5 8001 one.users.internal", "10 0 8002 two.users.internal"),
        "A many.internal": records(*(f"10.1.{n // 250}.{n % 250}" for n in range(400))),
        "A broken.internal": {"rcode": "SERVFAIL"},
        "A refused.internal": {"rcode": "REFUSED"},
    }
    write_zone(folder, zone)
    servers = serve(port, folder)
    yield f"127.0.0.1:{port}"
    for running in servers:
        running.stop()


def ask(server: str, name: str, kind: str = "A") -> tuple[tuple[Record, ...], float]:
    return look_up(Question(name, kind, (server,), 2.0))  # type: ignore[arg-type]


def test_addresses_are_sorted_and_their_time_to_live_is_the_record_s(server: str) -> None:
    found, ttl = ask(server, "users.internal")
    assert [record.host for record in found] == ["10.0.0.1", "10.0.0.2"]
    assert 5 < ttl <= 7
    assert [record.host for record in ask(server, "users.internal", "AAAA")[0]] == ["fd00::1"]


def test_a_service_s_records_say_all_they_say(server: str) -> None:
    found, _ = ask(server, "_http._tcp.users.internal", "SRV")
    assert found == (Record("one.users.internal", 8001, 5, 0), Record("two.users.internal", 8002, 0, 10))


def test_an_answer_that_is_too_long_for_a_datagram_comes_whole(server: str, folder: Path) -> None:
    found, _ = ask(server, "many.internal")
    assert len(found) == 400
    assert "A many.internal tcp" in (folder / "queries").read_text()


@pytest.mark.parametrize(("name", "kind"), [("nobody.internal", "A"), ("users.internal", "SRV")])
def test_that_there_is_nothing_is_an_answer(server: str, name: str, kind: str) -> None:
    found, ttl = ask(server, name, kind)
    assert (found, ttl) == ((), 5.0)


@pytest.mark.parametrize("name", ["broken.internal", "refused.internal"])
def test_what_says_nothing_about_the_name_is_a_failure(server: str, name: str) -> None:
    with pytest.raises(LookupFailed):
        ask(server, name)


def test_a_server_that_is_not_there_is_a_failure_and_the_next_one_is_asked(server: str) -> None:
    dead = f"127.0.0.1:{free_port()}"
    with pytest.raises(LookupFailed):
        look_up(Question("users.internal", "A", (dead,), 0.3))
    assert len(look_up(Question("users.internal", "A", (dead, server), 1.0)).records) == 2
