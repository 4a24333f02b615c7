from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import redis

from gwproxy.cli import followed_file, run_file
from gwproxy.cli.followed_file import REMEMBERED, FollowedFile
from gwproxy.errors import ConfigurationRefused, StoreUnavailable
from gwproxy.settings import Settings
from gwproxy.store.audit import AuditLog
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.connection import connect
from tests.conftest import Server


class Following:
    """A followed file with what it said."""

    def __init__(self, folder: Path, url: str) -> None:
        self.path = folder / "gateway.yaml"
        self.settings = Settings(state_dir=folder / "state")
        self.settings.state_dir.mkdir(exist_ok=True)
        client = connect(url, timeout=2.0)
        self.store, self.audit = ConfigurationStore(client), AuditLog(client)
        self.said: list[str] = []
        self.file = FollowedFile(self.path, self.settings, self.store, self.audit, "here", self.said.append)

    def write(self, *paths: str) -> None:
        self.path.write_text("routes:\n" + "".join(f"  - {{path: {path}, upstream: 'http://10.0.0.5'}}\n" for path in paths))

    def look(self, times: int = 2) -> list[str]:
        """Look, and return what was said meanwhile. Twice: the first look sees the edit, the second that it is over."""
        before = len(self.said)
        for _ in range(times):
            self.file.look()
        return self.said[before:]

    def live(self) -> list[str]:
        return [route["path"] for route in json.loads(self.store.read().data or b"[]")["routes"]]


@pytest.fixture
def following(tmp_path: Path, server: Server) -> Following:
    redis.Redis.from_url(server.url).flushall()
    following = Following(tmp_path, server.url)
    following.write("/a")
    following.file.start()
    return following


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_file, "RETRY", 0.0)


def test_the_start_publishes_once(following: Following) -> None:
    assert following.live() == ["/a"]
    assert following.said == [f"published {following.path} as revision 1"]
    assert following.look(5) == []
    assert following.store.read().revision == 1


def test_an_edit_is_published_when_the_file_is_still(following: Following) -> None:
    following.write("/a", "/b")
    assert following.look(1) == []  # it may be half of it
    following.write("/a", "/b", "/c")
    assert following.look(1) == []
    assert following.look(1) == [f"published {following.path} as revision 2"]
    assert following.live() == ["/a", "/b", "/c"]


def test_a_file_that_is_away_is_waited_for(following: Following) -> None:
    following.path.unlink()
    assert following.look(5) == []
    following.write("/back")
    assert following.look() == [f"published {following.path} as revision 2"]


def test_an_invalid_edit_is_told_once(following: Following) -> None:
    following.path.write_text("routes: [{path: /a, upstraem: x}]\n")
    said = following.look(6)
    assert said[0].startswith(f"{following.path}:1:")
    assert said[-1].startswith(f"{following.path} was not published, for ")
    assert [line for line in said if "was not published" in line] == said[-1:]
    assert following.live() == ["/a"]
    published, refused = following.audit.entries()
    assert (published.actor, published.action, published.outcome, published.revision) == ("run", "apply", "done", 1)
    assert (refused.actor, refused.action, refused.outcome) == ("run", "apply", "refused")
    assert refused.detail.startswith("2 problems: ")


def test_an_invalid_start_is_refused(following: Following) -> None:
    following.path.write_text("routes: 7\n")
    with pytest.raises(ConfigurationRefused):
        following.file.start()


def test_what_came_after_it_stays_at_a_restart_but_not_at_an_edit(following: Following, tmp_path: Path, server: Server) -> None:
    following.store.publish(b'{"routes":[{"path":"/theirs","upstream":"http://10.0.0.6"}]}', actor="them")
    again = Following(tmp_path, server.url)
    again.file.start()
    assert again.live() == ["/theirs"]
    assert again.said == [f"{again.path} has not changed since it was published; revision 2, which came after it, stays"]
    again.write("/mine")
    assert again.look() == [f"published {again.path} as revision 3"]
    again.write("/a")  # as it was at first: an edit all the same
    assert again.look() == [f"published {again.path} as revision 4"]


def test_an_empty_store_gets_it_though_nothing_has_changed(following: Following, tmp_path: Path, server: Server) -> None:
    redis.Redis.from_url(server.url).delete("gw:routes")
    again = Following(tmp_path, server.url)
    again.file.start()
    assert again.live() == ["/a"]


def test_a_lost_state_folder_publishes_nothing_twice(following: Following, tmp_path: Path, server: Server) -> None:
    (following.settings.state_dir / REMEMBERED).unlink()
    again = Following(tmp_path, server.url)
    again.file.start()
    assert again.said == [f"{again.path} is live already, as revision 1"]


@pytest.mark.parametrize("held", ["nonsense", "[]", "\udcff"])
def test_what_is_remembered_may_be_damaged(following: Following, tmp_path: Path, server: Server, held: str) -> None:
    (following.settings.state_dir / REMEMBERED).write_bytes(os.fsencode(held))
    again = Following(tmp_path, server.url)
    again.file.start()
    assert again.live() == ["/a"]


def test_V13_a_full_disk_does_not_publish_it_again_and_again(following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_file, "write_private", full)
    following.write("/b")
    said = following.look(6)
    assert said[0].startswith("cannot remember what was published in ")
    assert said[1:] == [f"published {following.path} as revision 2"]
    assert following.store.read().revision == 2


def test_a_store_that_is_away_is_told_once_and_tried_again(following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(following.store, "publish", away)
        following.write("/b")
        assert following.look(6) == [f"{following.path} is not published yet: away"]
    assert following.look(1) == [f"published {following.path} as revision 2"]


def test_what_is_remembered_is_its_owners_alone(following: Following) -> None:
    assert (following.settings.state_dir / REMEMBERED).stat().st_mode & 0o777 == 0o600
