"""The token that is there before any other was made."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest

from gwproxy.admin import token_file
from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Settings:
    return dataclasses.replace(settings, admin_token=None, state_dir=tmp_path / "state")


def test_D02_one_is_made_at_the_first_start_and_stays(own: Settings) -> None:
    path = own.state_dir / "admin.token"
    assert token_file.ensure(own) == str(path)
    token = token_file.read(own)
    assert len(token) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(own.state_dir.stat().st_mode) == 0o700
    token_file.ensure(own)
    assert token_file.read(own) == token
    assert [each.name for each in own.state_dir.iterdir()] == ["admin.token"]


def test_D02_one_that_was_opened_to_others_is_closed_again(own: Settings) -> None:
    token_file.ensure(own)
    path = own.state_dir / "admin.token"
    path.chmod(0o644)
    token_file.ensure(own)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_environments_comes_first_and_no_file_is_made(own: Settings) -> None:
    named = dataclasses.replace(own, admin_token="from-the-environment")
    assert token_file.ensure(named) == "GWPROXY_ADMIN_TOKEN"
    assert token_file.read(named) == "from-the-environment"
    assert not own.state_dir.exists()


@pytest.mark.parametrize("token", ["secret", "x" * 15])
def test_D02_one_that_could_be_guessed_is_refused(own: Settings, token: str) -> None:
    with pytest.raises(CommandFailed, match="GWPROXY_ADMIN_TOKEN has less than 16 characters"):
        token_file.ensure(dataclasses.replace(own, admin_token=token))


@pytest.mark.parametrize("held", [b"", b"\n", b"short\n", b"\xff" * 40])
def test_D02_a_file_that_holds_none_opens_nothing(own: Settings, held: bytes) -> None:
    own.state_dir.mkdir()
    (own.state_dir / "admin.token").write_bytes(held)
    with pytest.raises(CommandFailed, match=r"admin\.token"):
        token_file.ensure(own)


def test_a_folder_that_cannot_be_used(own: Settings) -> None:
    own.state_dir.parent.joinpath("state").write_text("a file")
    with pytest.raises(CommandFailed, match="GWPROXY_ADMIN_TOKEN"):
        token_file.ensure(own)
