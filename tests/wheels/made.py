"""Wheels for tests, made as pip's tools make them: a zip with a RECORD of every file."""

from __future__ import annotations

import base64
import hashlib
import io
import textwrap
import zipfile
from collections.abc import Mapping, Sequence

#: A plugin that says in a header which version it is.
SOURCE = """
from gwproxy import Context, Plugin, hookimpl

class Tenant(Plugin):
    name = "tenant"
    version = "{version}"

    @hookimpl
    def response(self, ctx: Context) -> None:
        ctx.response_headers["X-Tenant-Version"] = self.version
"""


def make_wheel(
    files: Mapping[str, str | bytes] | None = None,
    *,
    distribution: str = "gwproxy-tenant",
    version: str = "1.0",
    plugins: Mapping[str, str] | None = None,
    requires: Sequence[str] = (),
    metadata: str = "",
    about: str = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    record: str | None = None,
) -> bytes:
    """Return the bytes of a wheel, the same for the same arguments.

    :param files: by path, sources with any indentation; None: a module ``gwproxy_tenant`` with the plugin ``tenant``.
    :param plugins: entry points; None: ``tenant`` of ``gwproxy_tenant``.
    :param metadata: further lines of METADATA.
    :param about: the file WHEEL.
    :param record: the file RECORD; None: a right one.
    """
    files = {"gwproxy_tenant.py": SOURCE.format(version=version)} if files is None else files
    plugins = {"tenant": "gwproxy_tenant:Tenant"} if plugins is None else plugins
    folder = f"{distribution.replace('-', '_')}-{version}.dist-info"
    requirements = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    points = "".join(f"{name} = {value}\n" for name, value in plugins.items())
    content = {path: textwrap.dedent(data).encode() if isinstance(data, str) else data for path, data in files.items()}
    content[f"{folder}/METADATA"] = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{requirements}{metadata}".encode()
    content[f"{folder}/WHEEL"] = about.encode()
    content[f"{folder}/entry_points.txt"] = f"[gwproxy]\n{points}".encode()
    lines = [f"{path},{_digest(data)},{len(data)}" for path, data in content.items()]
    content[f"{folder}/RECORD"] = ("\n".join([*lines, f"{folder}/RECORD,,"]) if record is None else record).encode()
    return zipped(content)


def zipped(content: Mapping[str, bytes]) -> bytes:
    """Return a zip file of these, by path, with no time in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(zipfile.ZipInfo(path), data, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
