"""``gwproxy plugins keygen`` and ``sign``: keys for gateways and signers, wheels that can be pushed."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from gwproxy.settings import Settings
from gwproxy.wheels.minisign import PublicKey, SecretKey, verify
from tests.wheels.made import make_wheel

PASSWORD = "GWPROXY_PLUGIN_KEY_PASSWORD"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("tenant-1.0-py3-none-any.whl").write_bytes(make_wheel())
    return tmp_path / "work"


WHEEL = "tenant-1.0-py3-none-any.whl"


def test_a_key_is_made_a_wheel_is_signed_and_minisign_agrees(cli) -> None:
    made = cli("plugins", "keygen", "--no-password", "--output", "mine")
    assert (made.status, made.err) == (0, "")
    public = PublicKey.parse(Path("mine.pub").read_text())
    assert f"GWPROXY_PLUGIN_KEYS={public}" in made.out
    assert Settings.from_environment({"GWPROXY_PLUGIN_KEYS": "mine.pub"}).plugin_keys == (public,)
    assert stat.S_IMODE(Path("mine.key").stat().st_mode) == 0o600
    assert "mine.key" in made.out
    assert SecretKey.load(Path("mine.key").read_text()).public == public
    signed = cli("plugins", "sign", WHEEL, "--key", "mine.key")
    assert (signed.status, signed.out) == (0, f"{WHEEL}.minisig  gwproxy-tenant 1.0, signed with the key {public.id}\n")
    comment = verify(Path(WHEEL).read_bytes(), Path(f"{WHEEL}.minisig").read_text(), [public]).trusted_comment
    assert comment.startswith(f"gwproxy-tenant 1.0 file:{WHEEL} timestamp:")
    subprocess.run(["minisign", "-V", "-m", WHEEL, "-p", "mine.pub"], check=True, stdout=subprocess.DEVNULL)


def test_a_key_with_a_password_asks_for_it_or_takes_it_from_the_environment(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "secret words")
    assert cli("plugins", "keygen").status == 0
    assert cli("plugins", "sign", WHEEL, "--key", "gwproxy-plugins.key").status == 0
    monkeypatch.setenv(PASSWORD, "other words")
    refused = cli("plugins", "sign", WHEEL, "--key", "gwproxy-plugins.key")
    assert (refused.status, refused.out) == (1, "")
    assert "gwproxy-plugins.key: the password of the secret key is wrong" in refused.err
    monkeypatch.delenv(PASSWORD)
    asked: list[str] = []
    monkeypatch.setattr("click.prompt", lambda text, **_: asked.append(text) or "secret words")
    assert cli("plugins", "sign", WHEEL, "--key", "gwproxy-plugins.key").status == 0
    assert asked == ["Password of gwproxy-plugins.key"]


def test_a_file_that_is_there_is_left_alone(cli) -> None:
    Path("mine.pub").write_text("precious")
    refused = cli("plugins", "keygen", "--no-password", "--output", "mine")
    assert refused.status == 1
    assert "mine.pub is there already" in refused.err
    assert Path("mine.pub").read_text() == "precious"
    assert not Path("mine.key").exists()


ROWS = {
    "no-wheel": ("gone.whl", "mine.key", "gone.whl: No such file or directory"),
    "compiled": ("fast.whl", "mine.key", "fast.whl: t/fast.so is compiled code"),
    "no-key": (WHEEL, "gone.key", "gone.key: No such file or directory"),
    "public-key": (WHEEL, "mine.pub", "mine.pub: it is no secret key of minisign"),
    "no-text": (WHEEL, WHEEL, "it is no secret key of minisign"),
}


@pytest.mark.parametrize(("wheel", "key", "says"), ROWS.values(), ids=ROWS)
def test_what_cannot_be_signed_or_with_what(cli, wheel: str, key: str, says: str) -> None:
    cli("plugins", "keygen", "--no-password", "--output", "mine")
    Path("fast.whl").write_bytes(make_wheel({"t/fast.so": b"", "t/__init__.py": ""}, plugins={"t": "t:T"}))
    refused = cli("plugins", "sign", wheel, "--key", key)
    assert (refused.status, refused.out) == (1, "")
    assert says in refused.err
    assert not list(Path().glob("*.minisig"))


def test_a_wheel_that_needs_what_is_not_installed_here_can_be_signed(cli) -> None:
    cli("plugins", "keygen", "--no-password", "--output", "mine")
    Path(WHEEL).write_bytes(make_wheel(requires=["not-installed-here"]))
    assert cli("plugins", "sign", WHEEL, "--key", "mine.key").status == 0
