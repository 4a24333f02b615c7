"""Settings that are numbers and sizes: what is read, and what is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings
from gwproxy.wheels.minisign import SecretKey


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_in_flight", "", 1000),
        ("max_in_flight", "0", 0),
        ("max_in_flight", "250", 250),
        ("max_memory", "", 1 << 30),
        ("max_memory", "0", 0),
        ("max_memory", "512MiB", 512 << 20),
        ("max_memory", "1000000", 1_000_000),
    ],
)
def test_what_is_read(name: str, text: str, value: int) -> None:
    assert getattr(Settings.from_environment({f"GWPROXY_{name.upper()}": text}), name) == value


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("MAX_IN_FLIGHT", "-1", "a whole number, 0 for no bound"),
        ("MAX_IN_FLIGHT", "many", "a whole number, 0 for no bound"),
        ("MAX_IN_FLIGHT", "1.5", "a whole number, 0 for no bound"),
        ("MAX_MEMORY", "lots", "a size is a number of bytes or a string such as '64KiB' or '10MiB', 0 for no bound"),
        ("MAX_MEMORY", "-5MiB", "a size is a number of bytes"),
    ],
)
def test_what_is_refused(name: str, text: str, expected: str) -> None:
    with pytest.raises(CommandFailed, match=re.escape(f"GWPROXY_{name} is {text!r}; ") + ".*" + re.escape(expected)):
        Settings.from_environment({f"GWPROXY_{name}": text})


@pytest.mark.parametrize(
    ("value", "bind"), [("", "127.0.0.1:8081"), ("off", None), ("unix:/run/admin.sock", "unix:/run/admin.sock"), ("[::1]:9", "[::1]:9")]
)
def test_where_the_admin_listener_is(value: str, bind: str | None) -> None:
    assert Settings.from_environment({"GWPROXY_ADMIN_BIND": value}).admin_bind == bind


def test_further_hosts_of_the_admin_listener() -> None:
    assert Settings.from_environment({"GWPROXY_ADMIN_HOSTS": "Admin.example.com, gw ,"}).admin_hosts == ("admin.example.com", "gw")


def test_keys_of_plugins_as_they_are_or_in_files(tmp_path: Path) -> None:
    first, second = SecretKey.generate().public, SecretKey.generate().public
    file = tmp_path / "second.pub"
    file.write_text(second.dump())
    assert Settings.from_environment({}).plugin_keys == ()
    assert Settings.from_environment({"GWPROXY_PLUGIN_KEYS": f" {first}, {file},{first},"}).plugin_keys == (first, second)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "'KEYS' is no public key of minisign, nor a file with one: No such file or directory"),
        (b"something", "KEYS: it is no public key of minisign"),
        (SecretKey.generate().dump(None).encode(), "KEYS: it is no public key of minisign"),
        (b"\xff\xfe", "'KEYS' is no public key of minisign, nor a file with one: it is no text"),
    ],
    ids=["gone", "no-key", "secret-key", "no-text"],
)
def test_a_key_of_plugins_that_is_none_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "a.pub"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CommandFailed) as failed:
        Settings.from_environment({"GWPROXY_PLUGIN_KEYS": str(file)})
    assert str(failed.value).startswith(f"GWPROXY_PLUGIN_KEYS: {says}".replace("KEYS'", f"{file}'").replace(" KEYS:", f" {file}:"))
