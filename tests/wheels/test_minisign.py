"""Keys and signatures: what minisign makes is read here, what is made here is read by minisign, all else is refused."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest

from gwproxy.errors import WheelRefused
from gwproxy.wheels.minisign import PublicKey, SecretKey, key_id, scrypt_cost, sign, verify

DATA = b"what is signed" * 1000
#: Made by minisign 0.11: without a password, with an old signature (of the data itself) and one as it makes them now.
PUBLIC = "untrusted comment: minisign public key 6992DBE0645C090B\nRWQLCVxk4NuSaaAZJA2EBbnpQX6zeM9i4pI+dMCiv2F/D1+4Qv8NCKJT\n"
SECRET = (
    "untrusted comment: minisign encrypted secret key\n"
    "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACwlcZODbkmlfFV4x04OYT9cWoOT8kvxonag1J36KF08umLmyB2AhPqAZJA2E"
    "BbnpQX6zeM9i4pI+dMCiv2F/D1+4Qv8NCKJTAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
)
OLD = (
    "untrusted comment: signature from minisign secret key\n"
    "RWQLCVxk4NuSaZYcmhRWmFePeAYr5n7Hd2rUAA1swIwpXJeDJP12MyhjatlvcaIVJCYnWl7pY/RdVaUzI12XWXMo3utvm76WmAM=\n"
    "trusted comment: timestamp:1795753095\tfile:d\n"
    "x+vbjm8G3togp2i2UIwkr9aVYr0WFsLP+J+CeIWGWUZ6QOfaza/00DTi9i2cLZwa+d0UtWxhEzoq33vxQJF6Bw==\n"
)
PADDED = "RWThmNEehKFPBtFHF/Fy7FKIE0rgovnr2OJxgI7uVGGLJb/D/SffxwkE"  # whose id begins with a zero


@pytest.fixture(scope="module")
def secret() -> SecretKey:
    return SecretKey.generate()


def minisign(*arguments: object, typed: str = "") -> str:
    done = subprocess.run(["minisign", *map(str, arguments)], input=typed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_minisign_made_is_read() -> None:
    key = SecretKey.load(SECRET)
    assert key.public == PublicKey.parse(PUBLIC) == PublicKey.parse(PUBLIC.splitlines()[1])
    assert key.public.dump() == PUBLIC
    assert key.id == key.public.id == "6992DBE0645C090B"
    assert PublicKey.parse(PADDED).id == "64FA1841ED198E1" == key_id("064fa1841ed198e1")
    signed = verify(b"hello" * 1000, OLD, [PublicKey.parse(PADDED), key.public])
    assert (signed.key_id, signed.trusted_comment) == (key.id, "timestamp:1795753095\tfile:d")


@pytest.mark.parametrize("password", [None, "pass wörd"])
def test_minisign_reads_and_uses_what_is_made_here(secret: SecretKey, tmp_path: Path, password: str | None) -> None:
    for name, content in {"own.pub": secret.public.dump(), "own.key": secret.dump(password)}.items():
        (tmp_path / name).write_text(content)
    data = tmp_path / "data"
    data.write_bytes(DATA)
    (tmp_path / "data.minisig").write_text(sign(DATA, secret, "mine"))
    assert "Trusted comment: mine" in minisign("-V", "-m", data, "-p", tmp_path / "own.pub")
    minisign("-S", "-m", data, "-s", tmp_path / "own.key", "-x", tmp_path / "theirs", "-t", "theirs", typed=f"{password}\n")
    assert verify(DATA, (tmp_path / "theirs").read_text(), [secret.public]).trusted_comment == "theirs"
    assert SecretKey.load((tmp_path / "own.key").read_text(), password) == secret
    assert SecretKey.is_encrypted((tmp_path / "own.key").read_text()) is (password is not None)


def test_a_key_that_minisign_makes_signs_here(tmp_path: Path) -> None:
    minisign("-G", "-W", "-p", tmp_path / "k.pub", "-s", tmp_path / "k.key")
    key, data = SecretKey.load((tmp_path / "k.key").read_text()), tmp_path / "data"
    data.write_bytes(DATA)
    (tmp_path / "data.minisig").write_text(sign(DATA, key, "x"))
    minisign("-V", "-m", data, "-p", tmp_path / "k.pub")


def test_a_password_of_minisign_costs_what_libsodium_says() -> None:
    assert scrypt_cost(33554432, 1073741824) == (1 << 20, 8, 1)  # its SENSITIVE
    assert scrypt_cost(524288, 16777216) == (1 << 14, 8, 1)  # its INTERACTIVE
    assert scrypt_cost(0, 1 << 40) == (1 << 10, 8, 1)


def test_a_secret_key_is_not_shown_and_needs_its_own_password(secret: SecretKey) -> None:
    assert secret.seed.hex() not in repr(secret)
    assert repr(secret.seed) not in repr(secret)
    text = secret.dump("right")
    for password, says in ((None, "it needs its password"), ("wrong", "password of the secret key is wrong")):
        with pytest.raises(WheelRefused, match=says):
            SecretKey.load(text, password)


def changed(text: str, line: int, at: int, value: bytes) -> str:
    """Return a text of minisign's, with other bytes in a base64 line."""
    lines = text.split("\n")
    data = bytearray(base64.b64decode(lines[line]))
    data[at : at + len(value)] = value
    lines[line] = base64.b64encode(data).decode()
    return "\n".join(lines)


#: The two limits of a secret key, as they stand in it.
CHEAP = (1 << 19).to_bytes(8, "little") + (1 << 24).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no secret key"),
        (PUBLIC, "no secret key"),
        (SECRET.replace("untrusted", "trusted"), "no secret key"),
        (changed(SECRET, 1, 2, b"XX"), "in a way that is not known"),
        (changed(SECRET, 1, 64, b"XX"), "is damaged"),
        (changed(SECRET, 1, 130, b"XX"), "is damaged"),
        (changed(changed(SECRET, 1, 2, b"Sc"), 1, 38, CHEAP), "password of the secret key is wrong"),
        (changed(SECRET, 1, 2, b"Sc"), "more memory or time"),
        (changed(changed(SECRET, 1, 2, b"Sc"), 1, 38, b"\xff" * 16), "more memory or time"),
    ],
)  # fmt: skip
def test_a_secret_key_that_is_none(text: str, says: str) -> None:
    with pytest.raises(WheelRefused, match=says):
        SecretKey.load(text, "x")


@pytest.mark.parametrize("text", ["", "x", PUBLIC + "more\n", PADDED[:-4], "RX" + PADDED[2:], "comment\n" + PADDED, SECRET])
def test_a_public_key_that_is_none(text: str) -> None:
    with pytest.raises(WheelRefused, match="no public key of minisign"):
        PublicKey.parse(text)


@pytest.mark.parametrize("text", ["", "12345678901234567", "0x12", "xyz", " 1"])
def test_an_id_that_is_none(text: str) -> None:
    with pytest.raises(WheelRefused, match="no id of a key"):
        key_id(text)


def test_a_signature_that_is_none_or_of_something_else(secret: SecretKey) -> None:
    good = sign(DATA, secret, "comment")
    other = sign(DATA + b"!", secret, "comment")
    lines = good.split("\n")
    rows: list[tuple[str | None, str]] = [
        (None, "it has no signature"),
        ("", "it has no signature"),
        ("x", "none of minisign's"),
        ("\n".join(lines[:2]), "none of minisign's"),
        (good + "more\n", "none of minisign's"),
        (good.replace(lines[1], "!"), "none of minisign's"),
        (good.replace(lines[3], lines[3][:-8]), "none of minisign's"),
        (changed(good, 1, 0, b"XX"), "none of minisign's"),
        (changed(good, 1, 2, b"\1\2\0\0\0\0\0\0"), "with the key 201, which is none of those that are trusted here"),
        (changed(good, 1, 20, b"\0\0\0\0"), f"its signature with the key {secret.id} is bad"),
        (changed(good, 1, 0, b"Ed"), f"its signature with the key {secret.id} is bad"),
        (other, f"its signature with the key {secret.id} is bad"),
        (good.replace("comment: comment", "comment: commenT"), "trusted comment .* is not what was signed"),
        (good.replace(lines[3], other.split("\n")[3]), "trusted comment .* is not what was signed"),
    ]
    for text, says in rows:
        with pytest.raises(WheelRefused, match=says):
            verify(DATA, text, [secret.public])
    assert verify(DATA, good.replace("\n", "\r\n"), [secret.public]).trusted_comment == "comment"
    with pytest.raises(WheelRefused, match="none of those that are trusted here"):
        verify(DATA, good, [])
    with pytest.raises(ValueError, match="one line"):
        sign(DATA, secret, "two\nlines")


def test_a_key_with_the_same_number_is_another_key(secret: SecretKey) -> None:
    forged = SecretKey(secret.number, SecretKey.generate().seed)
    with pytest.raises(WheelRefused, match="is bad"):
        verify(DATA, sign(DATA, forged, ""), [secret.public])


def test_what_is_revoked_says_why(secret: SecretKey) -> None:
    good = sign(DATA, secret, "")
    assert verify(DATA, good, [secret.public], {"another": "x"}) == verify(DATA, good, [secret.public])
    for what, says in ((secret.id, f"key {secret.id}, which is revoked: lost"), (hashlib.sha256(DATA).hexdigest(), "it is revoked: lost")):
        with pytest.raises(WheelRefused, match=says):
            verify(DATA, good, [secret.public], {what: "lost"})
