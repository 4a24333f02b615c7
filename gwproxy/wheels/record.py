"""Whether the files of a wheel are those that its ``RECORD`` lists, to the byte."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections.abc import Mapping

from gwproxy.errors import WheelRefused

#: Those that the format of wheels asks for; md5 and sha1 are not among them.
_ALGORITHMS = ("sha256", "sha384", "sha512")


def check_record(files: Mapping[str, bytes], record: str) -> None:
    """Compare files with a record of them.

    :param files: all files of the wheel, by path.
    :param record: the path of the record, which is not in itself; nor are signatures of it.
    :raises WheelRefused: a file is not listed, is listed and not there, or is not as listed.
    """
    try:
        rows = [row for row in csv.reader(files[record].decode().splitlines()) if row]
    except csv.Error as error:
        raise WheelRefused(f"{record} cannot be read: {error}") from None
    exempt = {record, f"{record}.jws", f"{record}.p7s"}
    listed: set[str] = set()
    for row in rows:
        path, digest, size = (*row, "", "")[:3]
        if path in listed:
            raise WheelRefused(f"{record} lists {path} twice")
        listed.add(path)
        if path in exempt:
            continue
        if path not in files:
            raise WheelRefused(f"{record} lists {path}, which is not there")
        _compare(path, files[path], digest, size)
    if unlisted := sorted(files.keys() - listed - exempt):
        raise WheelRefused(f"{unlisted[0]} is not in {record}")


def _compare(path: str, data: bytes, digest: str, size: str) -> None:
    algorithm, _, wanted = digest.partition("=")
    if algorithm not in _ALGORITHMS:
        raise WheelRefused(f"RECORD gives no SHA-256 of {path}")
    found = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=").decode()
    if found != wanted.rstrip("=") or (size and size != str(len(data))):
        raise WheelRefused(f"{path} is not what RECORD says it is")
