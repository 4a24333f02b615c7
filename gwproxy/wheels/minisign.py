"""Who vouches for a wheel: keys and signatures in the format of minisign (https://jedisct1.github.io/minisign/).

Ed25519 throughout. Signatures are made of the BLAKE2b-512 of the data (``ED``), as minisign makes them; those of the data itself
(``Ed``), of earlier versions, are accepted as well. Keys and signatures may come from that program, and go to it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gwproxy.errors import WheelRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_ALGORITHM, _PREHASHED = b"Ed", b"ED"
_SCRYPT, _NO_KDF, _CHECKSUM = b"Sc", b"\0\0", b"B2"
_COMMENT, _TRUSTED = "untrusted comment: ", "trusted comment: "
#: What a new secret key costs to decrypt: 128 MiB of memory and half a second. Minisign's own cost 1 GiB.
_OPSLIMIT, _MEMLIMIT = 1 << 22, 1 << 27
#: The most memory, in bytes, that a secret key may ask for: those of minisign do.
_MOST_MEMORY = 1 << 30
#: Characters of a signature's text at most; minisign's comments have 8 KiB.
_MOST_TEXT = 20_000


@dataclass(frozen=True, slots=True)
class Signed:
    """What a good signature says.

    :ivar key_id: of the key that made it, as minisign prints it.
    :ivar trusted_comment: signed as well; a name and a time, mostly.
    """

    key_id: str
    trusted_comment: str


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are verified with.

    :ivar number: 8 bytes that tell keys apart.
    :ivar key: 32 bytes.
    """

    number: bytes
    key: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read a key: the one line, or a file of minisign's with the comment before it.

        :raises WheelRefused: it is none.
        """
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        data = _decode(lines[-1]) if 0 < len(lines) <= 2 else b""
        if len(data) != 42 or data[:2] != _ALGORITHM or (len(lines) == 2 and not lines[0].startswith(_COMMENT.strip())):
            raise WheelRefused("it is no public key of minisign: one line of 56 characters that begins with RW, after a comment perhaps")
        return cls(data[2:10], data[10:])

    @property
    def id(self) -> str:
        """Hexadecimal digits, 16 of them mostly, as minisign prints it: with no zeros before them."""
        return _id(self.number)

    def __str__(self) -> str:
        """Return the one line."""
        return base64.b64encode(_ALGORITHM + self.number + self.key).decode()

    def dump(self) -> str:
        """Return the text of a file of minisign's."""
        return f"{_COMMENT}minisign public key {self.id}\n{self}\n"


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A key that signatures are made with.

    :ivar number: 8 bytes, those of the public key.
    :ivar seed: 32 bytes.
    """

    number: bytes
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> SecretKey:
        """Make a new key."""
        return cls(os.urandom(8), os.urandom(32))

    @classmethod
    def load(cls, text: str, password: str | None = None) -> SecretKey:
        """Read a file of minisign's. That of an encrypted key takes time and memory: a second and 1 GiB at most.

        :param password: None: the key is not encrypted.
        :raises WheelRefused: it is none, or the password is not the right one.
        """
        data = _secret_data(text)
        kdf, salt, limits, hidden = data[2:4], data[6:38], data[38:54], data[54:]
        if kdf == _SCRYPT:
            if password is None:
                raise WheelRefused("the secret key is encrypted: it needs its password")
            opslimit, memlimit = (int.from_bytes(limits[at : at + 8], "little") for at in (0, 8))
            hidden = _xor(hidden, _stretch(password, salt, opslimit, memlimit))
        elif kdf != _NO_KDF:
            raise WheelRefused("the secret key is encrypted in a way that is not known")
        key = cls(hidden[:8], hidden[8:40])
        checksum = hidden[72:] if kdf == _SCRYPT or any(hidden[72:]) else key._checksum()
        if not hmac.compare_digest(checksum, key._checksum()) or hidden[40:72] != key.public.key:
            raise WheelRefused("the password of the secret key is wrong" if kdf == _SCRYPT else "the secret key is damaged")
        return key

    @staticmethod
    def is_encrypted(text: str) -> bool:
        """Whether a file of a secret key needs a password.

        :raises WheelRefused: it is none.
        """
        return _secret_data(text)[2:4] != _NO_KDF

    def dump(self, password: str | None) -> str:
        """Return the text of a file of minisign's.

        :param password: None: the key is written as it is, and whoever reads the file has it.
        """
        salt = os.urandom(32)
        shown = self.number + self.seed + self.public.key + self._checksum()
        hidden = shown if password is None else _xor(shown, _stretch(password, salt, _OPSLIMIT, _MEMLIMIT))
        kdf = _NO_KDF if password is None else _SCRYPT
        limits = _OPSLIMIT.to_bytes(8, "little") + _MEMLIMIT.to_bytes(8, "little")
        data = _ALGORITHM + kdf + _CHECKSUM + salt + limits + hidden
        kind = "minisign secret key" if password is None else "minisign encrypted secret key"
        return f"{_COMMENT}{kind}\n{base64.b64encode(data).decode()}\n"

    @property
    def public(self) -> PublicKey:
        """The public key that belongs to it."""
        return PublicKey(self.number, self._private().public_key().public_bytes_raw())

    @property
    def id(self) -> str:
        """That of the public key."""
        return _id(self.number)

    def _private(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed)

    def _checksum(self) -> bytes:
        return hashlib.blake2b(_ALGORITHM + self.number + self.seed + self.public.key, digest_size=32).digest()


def sign(data: bytes, secret: SecretKey, trusted_comment: str) -> str:
    """Return the text of a ``.minisig`` file for ``data``.

    :param trusted_comment: one line, which is signed as well.
    :raises ValueError: it has more than a line.
    """
    if len(trusted_comment.splitlines()) > 1:
        raise ValueError("a trusted comment is one line")
    private = secret._private()
    signature = private.sign(hashlib.blake2b(data).digest())
    whole = private.sign(signature + trusted_comment.encode())
    first, last = (base64.b64encode(part).decode() for part in (_PREHASHED + secret.number + signature, whole))
    return f"{_COMMENT}signature from minisign secret key {secret.id}\n{first}\n{_TRUSTED}{trusted_comment}\n{last}\n"


def verify(data: bytes, signature: str | None, keys: Iterable[PublicKey], revoked: Mapping[str, str] | None = None) -> Signed:
    """See whether ``data`` was signed, comment and all, with one of ``keys``.

    :param signature: the text of a ``.minisig`` file; None or empty: there is none.
    :param revoked: ids of keys and SHA-256 of data that count no more, each with the reason.
    :raises WheelRefused: it was not, or key or data are revoked; it says what is wrong.
    """
    revoked = revoked or {}
    if not signature:
        raise WheelRefused("it has no signature")
    algorithm, number, signed, comment, whole = _parts(signature)
    key = next((key for key in keys if key.number == number), None)
    if key is None:
        raise WheelRefused(f"it is signed with the key {_id(number)}, which is none of those that are trusted here")
    if key.id in revoked:
        raise WheelRefused(f"it is signed with the key {key.id}, which is revoked: {revoked[key.id]}")
    message = hashlib.blake2b(data).digest() if algorithm == _PREHASHED else data
    if not _is_good(key, signed, message):
        raise WheelRefused(f"its signature with the key {key.id} is bad: it is not what was signed")
    if not _is_good(key, whole, signed + comment.encode()):
        raise WheelRefused(f"the trusted comment of its signature with the key {key.id} is not what was signed")
    digest = hashlib.sha256(data).hexdigest()
    if digest in revoked:
        raise WheelRefused(f"it is revoked: {revoked[digest]}")
    return Signed(key.id, comment)


def signed_by(signature: str) -> str:
    """Return the id of the key that a signature says it was made with; nothing is verified.

    :raises WheelRefused: it is no signature.
    """
    return _id(_parts(signature)[1])


def _parts(text: str) -> tuple[bytes, bytes, bytes, str, bytes]:
    """Return algorithm, key number, signature, trusted comment and the signature of both."""
    lines = text[:_MOST_TEXT].replace("\r\n", "\n").rstrip("\n").split("\n")
    if len(lines) != 4 or not lines[0].startswith(_COMMENT.strip()) or not lines[2].startswith(_TRUSTED):
        raise WheelRefused("its signature is none of minisign's: those have four lines, the third a trusted comment")
    first, whole = _decode(lines[1]), _decode(lines[3])
    if len(first) != 74 or first[:2] not in (_ALGORITHM, _PREHASHED) or len(whole) != 64:
        raise WheelRefused("its signature is none of minisign's: it is not of the length or the kind that those have")
    return first[:2], first[2:10], first[10:], lines[2].removeprefix(_TRUSTED), whole


def _is_good(key: PublicKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _secret_data(text: str) -> bytes:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    data = _decode(lines[1]) if len(lines) == 2 and lines[0].startswith(_COMMENT.strip()) else b""
    if len(data) != 158 or data[:2] != _ALGORITHM or data[4:6] != _CHECKSUM:
        raise WheelRefused("it is no secret key of minisign: a comment, and one line of 212 characters")
    return data


def _decode(text: str) -> bytes:
    """Return what base64 text stands for; empty if it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def key_id(text: str) -> str:
    """Return the id of a key as :attr:`PublicKey.id` has it, however it was typed.

    :raises WheelRefused: it is none: at most 16 hexadecimal digits.
    """
    if not 0 < len(text) <= 16 or not set(text) <= set(string.hexdigits):
        raise WheelRefused(f"{text!r} is no id of a key: at most 16 hexadecimal digits")
    return f"{int(text, 16):X}"


def _id(number: bytes) -> str:
    return f"{int.from_bytes(number, 'little'):X}"


def _xor(data: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, mask, strict=True))


def _stretch(password: str, salt: bytes, opslimit: int, memlimit: int) -> bytes:
    """Return the 104 bytes that a secret key is masked with."""
    n, r, p = scrypt_cost(opslimit, memlimit)
    if n * r * 128 > _MOST_MEMORY or p > 16:
        raise WheelRefused("the secret key asks for more memory or time than any of minisign's")
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=128 * r * (n + p + 8), dklen=104)


def scrypt_cost(opslimit: int, memlimit: int) -> tuple[int, int, int]:
    """Return what the two limits of a secret key mean for scrypt, by libsodium's rule: its N, r and p."""
    opslimit, n, r = max(opslimit, 32768), 2, 8
    by_time = opslimit < memlimit // 32
    most = opslimit // (r * 4) if by_time else memlimit // (r * 128)
    while n <= most // 2:
        n *= 2
    return n, r, 1 if by_time else max(1, min(opslimit // 4 // n, 0x3FFFFFFF) // r)
