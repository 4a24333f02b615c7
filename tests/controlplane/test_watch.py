"""Following a configuration: applied, refused, lost, found again; what serves is never worse than before."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gwproxy import Plugin, hookimpl
from gwproxy.controlplane.last_good import LastGoodFile
from gwproxy.controlplane.parse import Environment
from gwproxy.controlplane.sources import FileSource, Found
from gwproxy.controlplane.watch import Watcher
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.errors import StoreUnavailable
from gwproxy.registry import Registry
from gwproxy.store.candidates import Candidate
from gwproxy.store.configuration import digest_of
from gwproxy.store.deployments import LiveDeployment, Revocation


class Script:
    """A source that says what the test wants."""

    def __init__(self) -> None:
        self.candidate: Candidate | None = None
        self.deployment: LiveDeployment | None = None
        self.revoked: dict[str, Revocation] = {}
        self.next: Found | Exception | None = None

    def poll(self) -> Found | None:
        said, self.next = self.next, None
        if isinstance(said, Exception):
            self.next = said
            raise said
        return said

    def outdated(self) -> bool:
        return False

    def wait(self) -> None: ...

    def close(self) -> None: ...


class Listener(Plugin):
    name = "listener"

    def __init__(self) -> None:
        self.applied: list[tuple[int, str]] = []

    @hookimpl
    def configuration_applied(self, revision: int, digest: str) -> None:
        self.applied.append((revision, digest))
        raise RuntimeError("a listener's failure is its own")


def text(*paths: str) -> bytes:
    return json.dumps([{"path": path, "upstream": "http://127.0.0.1:9"} for path in paths]).encode()


class Bench:
    def __init__(self, folder: Path, listener: Listener | None = None) -> None:
        self.source = Script()
        self.gateway = Gateway(Upstreams())
        self.changes = 0
        self.listener = listener or Listener()
        self.last_good = LastGoodFile(folder, "gw:")
        registry = Registry.of(self.listener)
        environment = Environment({}, lambda name: True)
        self.watcher = Watcher(
            self.source, self.gateway, registry, self.gateway.upstreams, environment, self.last_good, changed=self.changed
        )
        self.standing = self.watcher.standing

    def changed(self) -> None:
        self.changes += 1

    def say(self, data: bytes | None, revision: int = 1) -> None:
        self.source.next = Found(data, revision, "gw:routes")
        self.watcher.step()

    def paths(self) -> list[str]:
        return [compiled.route.path for compiled in self.gateway.snapshot.routes] if self.gateway.snapshot else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_valid_configuration_is_applied_saved_and_told(bench: Bench) -> None:
    bench.say(text("/a"), 7)
    digest = hashlib.sha256(text("/a")).hexdigest()
    assert bench.paths() == ["/a"]
    assert (bench.standing.state, bench.standing.revision, bench.standing.digest, bench.standing.error) == ("ready", 7, digest, "")
    assert bench.listener.applied == [(7, digest)]
    assert [kept.data for kept in bench.last_good.load()] == [text("/a")]
    assert bench.changes == 1


def test_G28_a_refused_configuration_changes_nothing(bench: Bench) -> None:
    bench.say(text("/a"), 1)
    bad = json.dumps([*json.loads(text("/a", "/b")), {"path": "/c"}]).encode()
    bench.say(bad, 2)
    assert bench.paths() == ["/a"]
    assert (bench.standing.state, bench.standing.revision, bench.standing.refused) == ("refused", 1, digest_of(bad))
    assert "routes[2]" in bench.standing.error
    assert [kept.data for kept in bench.last_good.load()] == [text("/a")]


def test_G30_the_same_bad_configuration_is_judged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for revision in range(20):
        bench.say(b"[{]", revision)
    assert sum("configuration_refused" in record.message for record in caplog.records) == 1


def test_a_change_that_is_taken_back_is_content_again(bench: Bench) -> None:
    bench.say(text("/a"), 1)
    bench.say(b"[{]", 2)
    bench.say(text("/a"), 3)
    assert (bench.standing.state, bench.standing.error, bench.standing.revision, bench.standing.refused) == ("ready", "", 3, "")
    assert len(bench.listener.applied) == 1
    bench.say(b"[{]", 4)
    assert bench.standing.state == "refused"


def test_a_missing_key_leaves_the_last_good_one_serving_and_says_so(bench: Bench) -> None:
    bench.say(text("/a"))
    bench.say(None)
    assert bench.paths() == ["/a"]
    assert (bench.standing.state, bench.standing.error) == ("refused", "gw:routes is missing or empty")


def test_a_store_that_is_away_at_start_leaves_the_last_good_one_to_serve(bench: Bench, tmp_path: Path) -> None:
    bench.say(text("/a"), 5)
    again = Bench(tmp_path)
    again.source.next = StoreUnavailable("away")
    again.watcher.step()
    assert again.paths() == ["/a"]
    assert again.standing.revision == 5


def test_a_refused_configuration_at_start_falls_back_too_and_says_why(bench: Bench, tmp_path: Path) -> None:
    bench.say(text("/a"), 5)
    again = Bench(tmp_path)
    again.say(b"[{]", 6)
    assert again.paths() == ["/a"]
    assert (again.standing.state, again.standing.refused) == ("refused", digest_of(b"[{]"))
    assert "gw:routes" in again.standing.error


def test_a_corrupt_last_good_file_falls_back_to_the_one_before(bench: Bench, tmp_path: Path) -> None:
    bench.say(text("/a"), 1)
    bench.say(text("/b"), 2)
    (tmp_path / "last-good" / "gw.json").write_bytes(b"garbage")
    again = Bench(tmp_path)
    again.source.next = StoreUnavailable("away")
    again.watcher.step()
    assert again.paths() == ["/a"]


def test_nothing_at_all_is_starting_not_ready(bench: Bench) -> None:
    bench.say(None)
    assert (bench.standing.state, bench.paths()) == ("starting", [])


def test_X09_a_missing_plugin_is_refused_while_serving_but_not_at_boot(bench: Bench, tmp_path: Path) -> None:
    needs = json.dumps([{"path": "/n", "upstream": "http://127.0.0.1:9", "plugins": [{"name": "gone"}]}]).encode()
    bench.say(text("/a"), 1)
    bench.say(needs, 2)
    assert bench.paths() == ["/a"]
    fresh = Bench(tmp_path / "other")
    fresh.say(needs, 1)
    assert fresh.paths() == ["/n"]
    assert "gone" in (fresh.gateway.snapshot.routes[0].unavailable or "")  # type: ignore[union-attr]


def test_X09_a_worker_that_starts_serves_nothing_that_the_others_have_refused(bench: Bench, tmp_path: Path) -> None:
    needs = json.dumps([{"path": "/n", "upstream": "http://127.0.0.1:9", "plugins": [{"name": "gone"}]}]).encode()
    bench.say(text("/a"), 1)
    bench.say(needs, 2)
    again = Bench(tmp_path)
    again.say(needs, 2)
    for worker in (bench, again):
        assert worker.paths() == ["/a"]
        assert (worker.standing.state, worker.standing.revision) == ("refused", 1)
        assert "gone" in worker.standing.error


def test_X09_a_plugin_that_went_missing_leaves_its_configuration_serving_what_it_can(bench: Bench, tmp_path: Path) -> None:
    needs = json.dumps([{"path": "/n", "upstream": "http://127.0.0.1:9", "plugins": [{"name": "gone"}]}]).encode()
    bench.last_good.save(text("/old"), 1)
    bench.last_good.save(needs, 2)
    bench.say(needs, 2)
    assert bench.paths() == ["/n"]
    assert bench.standing.state == "ready"


def test_X09_a_last_good_one_that_cannot_be_read_any_more_is_no_reason_to_serve_nothing(bench: Bench) -> None:
    needs = json.dumps([{"path": "/n", "upstream": "http://127.0.0.1:9", "plugins": [{"name": "gone"}]}]).encode()
    bench.last_good.save(b"[{", 1)
    bench.say(needs, 2)
    assert bench.paths() == ["/n"]


def test_Q07_a_change_that_the_store_could_not_number_is_applied_when_it_is_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    answers: list[int | Exception] = [StoreUnavailable("gone since the read"), 8]

    def number(data: bytes, digest: str) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    bench.watcher._revision_of = number
    bench.say(text("/a"), 7)
    assert bench.paths() == []
    bench.watcher.step()  # the source has nothing new to say
    assert (bench.paths(), bench.standing.revision) == (["/a"], 8)


def test_a_refused_configuration_that_comes_back_is_named_again(bench: Bench) -> None:
    bench.say(text("/a"), 1)
    bench.say(b"[{]", 2)
    refused = bench.standing.error
    bench.say(None, 2)
    assert bench.standing.error == "gw:routes is missing or empty"
    bench.say(b"[{]", 3)
    assert bench.standing.error == refused


def test_what_nobody_foresaw_is_in_the_heartbeat_too(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.say(text("/a"), 1)
    bench.source.next = ValueError("odd")
    bench.source.wait = bench.watcher.close  # type: ignore[method-assign]
    bench.watcher.run()
    assert bench.paths() == ["/a"]
    assert bench.standing.state == "refused"
    assert "ValueError" in bench.standing.error
    assert "odd" not in bench.standing.error
    assert any(record.exc_info for record in caplog.records if "watch_failed" in record.message)


def test_V13_a_disk_that_refuses_does_not_stop_a_change(bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "last-good").write_text("in the way")
    bench.say(text("/a"))
    assert bench.paths() == ["/a"]
    assert any("last_good_not_saved" in record.message for record in caplog.records)


def test_a_draining_worker_stays_draining(bench: Bench) -> None:
    bench.standing.state = "draining"
    bench.say(text("/a"))
    assert bench.standing.state == "draining"


def test_a_file_is_read_again_when_it_was_written_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    source = FileSource(path)
    with pytest.raises(StoreUnavailable, match=r"gateway\.yaml"):
        source.poll()
    path.write_bytes(b"one")
    assert source.poll() == Found(b"one", 0, str(path))
    assert source.poll() is None
    other = tmp_path / "other"
    other.write_bytes(b"two")
    other.replace(path)
    assert source.poll() == Found(b"two", 0, str(path))
    path.write_bytes(b"")
    assert source.poll() == Found(None, 0, str(path))


@pytest.mark.parametrize("found", [Found(text("/a"), 1, "gw:routes"), None, StoreUnavailable("away"), ValueError("odd")])
def test_it_has_looked_once_whatever_was_found(bench: Bench, found: Found | Exception | None) -> None:
    bench.source.next = found
    looked = []
    bench.source.wait = lambda: (looked.append(bench.watcher.looked), bench.watcher.close())  # type: ignore[func-returns-value,assignment,method-assign]
    assert not bench.watcher.looked
    bench.watcher.run()
    assert looked == [True]
