"""``gwproxy plugins keygen`` and ``gwproxy plugins sign``: who vouches for a plugin that is to be pushed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from gwproxy.errors import CommandFailed, WheelRefused
from gwproxy.wheels.minisign import SecretKey
from gwproxy.wheels.minisign import sign as signature
from gwproxy.wheels.wheel import read

PASSWORD = "GWPROXY_PLUGIN_KEY_PASSWORD"  # noqa: S105 - the variable's name


@click.command(
    epilog="""\b
Examples:
  gwproxy plugins keygen
  gwproxy plugins keygen --output ~/keys/plugins
  gwproxy plugins keygen --no-password --output ci
"""
)
@click.option("--output", "name", metavar="NAME", default="gwproxy-plugins", help="Of the two files, NAME.key and NAME.pub.")
@click.option("--no-password", is_flag=True, help="Write the secret key as it is: whoever can read the file can sign.")
def keygen(name: str, no_password: bool) -> int:
    """Make a key to sign plugins with.

    NAME.pub is for the gateways: GWPROXY_PLUGIN_KEYS names it. NAME.key is secret and belongs to whoever signs, on no gateway. It is
    encrypted with a password, which is asked for, or taken from GWPROXY_PLUGIN_KEY_PASSWORD. Both are minisign's own files. A file
    that is there already is left alone.
    """
    files = Path(f"{name}.key"), Path(f"{name}.pub")
    for file in files:
        if file.exists():
            raise CommandFailed(f"{file} is there already; choose another --output")
    password = None if no_password else os.environ.get(PASSWORD) or _ask_new()
    key = SecretKey.generate()
    for file, text, mode in zip(files, (key.dump(password), key.public.dump()), (0o600, 0o644), strict=True):
        _write_new(file, text, mode)
    click.echo(f"{files[0]}  secret: keep it where plugins are signed\n{files[1]}  public: key {key.id}")
    click.echo(f"\nGateways load what it has signed, and nothing else, with:\n  GWPROXY_PLUGIN_KEYS={key.public}")
    return 0


@click.command(
    epilog="""\b
Examples:
  gwproxy plugins sign dist/gwproxy_tenant-1.1-py3-none-any.whl --key gwproxy-plugins.key
  minisign -Vm dist/gwproxy_tenant-1.1-py3-none-any.whl -p gwproxy-plugins.pub
"""
)
@click.argument("wheel", type=click.Path(path_type=Path))
@click.option("--key", "key_file", type=click.Path(path_type=Path), required=True, help="The secret key, such as gwproxy-plugins.key.")
def sign(wheel: Path, key_file: Path) -> int:
    """Sign a WHEEL, so that it can be pushed: writes WHEEL.minisig, beside it.

    The wheel is looked at first: what could never be pushed is not signed. None of its code runs. An encrypted key needs its
    password, which is asked for, or taken from GWPROXY_PLUGIN_KEY_PASSWORD.
    """
    data = _read(wheel)
    try:
        what = read(data, environment=False)
    except WheelRefused as refused:
        raise CommandFailed(f"{wheel}: {refused.reason}") from None
    key = _load(key_file)
    comment = f"{what.package} file:{wheel.name} timestamp:{int(datetime.now(UTC).timestamp())}"
    target = wheel.with_name(f"{wheel.name}.minisig")
    try:
        target.write_text(signature(data, key, comment))
    except OSError as error:
        raise CommandFailed(f"{target}: {error.strerror}") from None
    click.echo(f"{target}  {what.package}, signed with the key {key.id}")
    return 0


def _load(file: Path) -> SecretKey:
    try:
        text = _read(file).decode()
        password = os.environ.get(PASSWORD) or _ask(file) if SecretKey.is_encrypted(text) else None
        return SecretKey.load(text, password)
    except WheelRefused as refused:
        raise CommandFailed(f"{file}: {refused.reason}") from None
    except UnicodeDecodeError:
        raise CommandFailed(f"{file}: it is no secret key of minisign") from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}") from None


def _ask_new() -> str:
    return str(click.prompt("Password of the new key", hide_input=True, confirmation_prompt=True, err=True))


def _ask(file: Path) -> str:
    return str(click.prompt(f"Password of {file}", hide_input=True, err=True))


def _write_new(file: Path, text: str, mode: int) -> None:
    """Write a file that must not be there, readable as it shall be from the first byte on.

    :raises CommandFailed: it is there, or cannot be written.
    """
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
            stream.write(text)
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}") from None
