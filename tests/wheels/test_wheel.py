"""What is read of a wheel, and what is refused: each with the file, field or requirement that is to blame."""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import sys
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from setuptools import build_meta

from gwproxy.cli.scaffold import write_package
from gwproxy.errors import WheelRefused
from gwproxy.wheels import wheel as module
from gwproxy.wheels.wheel import read
from tests.wheels.made import SOURCE, make_wheel, zipped

ABOUT = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def test_what_is_read() -> None:
    files = {"tenant/__init__.py": SOURCE.format(version="1.0"), "tenant/rules.json": b"{}", "tenant/py.typed": b""}
    data = make_wheel(files, distribution="GWProxy.Tenant", version="1.0.0", plugins={"tenant": "tenant:Tenant"}, requires=["pluggy>=1"])
    wheel = read(data)
    assert (wheel.distribution, wheel.version, wheel.package) == ("gwproxy-tenant", "1.0.0", "gwproxy-tenant 1.0.0")
    assert wheel.sha256 == hashlib.sha256(data).hexdigest()
    assert wheel.requires == ("pluggy>=1",)
    assert wheel.plugins == {"tenant": "tenant:Tenant"}
    assert list(wheel.sources) == ["tenant/__init__.py"]
    assert wheel.resources == {"tenant/rules.json": b"{}", "tenant/py.typed": b""}
    assert wheel.pinned.plugins == ("tenant",)


def test_a_wheel_that_setuptools_built_of_a_new_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package("tenant", tmp_path)
    monkeypatch.chdir(tmp_path)
    name = build_meta.build_wheel(str(tmp_path / "dist"))
    wheel = read((tmp_path / "dist" / name).read_bytes())
    assert (wheel.package, dict(wheel.plugins)) == ("gwproxy-tenant 0.1.0", {"tenant": "gwproxy_tenant:Tenant"})
    assert list(wheel.sources) == ["gwproxy_tenant.py"]


#: Arguments of make_wheel that make it one that is refused, and what is said.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "shared-object": ({"files": {"tenant/fast.so": b"", "t.py": ""}}, "tenant/fast.so is compiled code"),
    "shared-object-version": ({"files": {"lib/x.so.1.2": b"", "t.py": ""}}, "lib/x.so.1.2 is compiled code"),
    "pyd": ({"files": {"fast.PYD": b"", "t.py": ""}}, "fast.PYD is compiled code"),
    "dylib": ({"files": {"fast.dylib": b"", "t.py": ""}}, "fast.dylib is compiled code"),
    "bytecode": ({"files": {"t.pyc": b"", "t.py": ""}}, "t.pyc is compiled code"),
    "pth": ({"files": {"evil.pth": b"import os", "t.py": ""}}, "evil.pth would change the path"),
    "scripts": ({"files": {"gwproxy_tenant-1.0.data/scripts/x": b"", "t.py": ""}}, "outside of the package"),
    "gateway": ({"files": {"gwproxy/app.py": b"", "t.py": ""}}, "the name gwproxy is the gateway's own"),
    "gateway-module": ({"files": {"gwproxy.py": b"", "t.py": ""}}, "the name gwproxy is the gateway's own"),
    "platform": ({"about": ABOUT.replace("any", "manylinux_2_17_x86_64")}, "it is for py3-none-manylinux_2_17_x86_64"),
    "abi": ({"about": ABOUT.replace("none", "cp311")}, "it is for py3-cp311-any"),
    "no-tag": ({"about": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"}, "names no Tag"),
    "not-pure": ({"about": ABOUT.replace("true", "false")}, "Root-Is-Purelib: false"),
    "format": ({"about": ABOUT.replace("1.0", "2.0")}, "its format is '2.0'"),
    "no-plugin": ({"plugins": {}}, "no entry point in the group 'gwproxy'"),
    "no-class": ({"plugins": {"tenant": "gwproxy_tenant"}}, "it must be MODULE:CLASS"),
    "statement": ({"plugins": {"tenant": "gwproxy_tenant:T()"}}, "it must be MODULE:CLASS"),
    "elsewhere": ({"plugins": {"tenant": "os:system"}}, "os is not in the wheel"),
    "plugin-twice": ({"plugins": {"tenant": "gwproxy_tenant:A\ntenant = gwproxy_tenant:B"}}, "'tenant' is in it twice"),
    "record-misses": ({"record": "gwproxy_tenant-1.0.dist-info/RECORD,,"}, "METADATA is not in gwproxy_tenant-1.0.dist-info/RECORD"),
    "record-too-much": ({"record": "gone.py,sha256=x,1"}, "lists gone.py, which is not there"),
    "record-hash": ({"record": f"gwproxy_tenant.py,sha256={'A' * 43},"}, "gwproxy_tenant.py is not what RECORD says it is"),
    "record-md5": ({"record": "gwproxy_tenant.py,md5=1B2M2Y8AsgTpgAmY7PhCfg,"}, "RECORD gives no SHA-256 of gwproxy_tenant.py"),
    "record-none": ({"record": "gwproxy_tenant.py,,"}, "RECORD gives no SHA-256 of gwproxy_tenant.py"),
    "requirement-missing": ({"requires": ["no-such-thing>=2"]}, "it requires no-such-thing>=2, and no-such-thing is not installed"),
    "requirement-version": ({"requires": ["pluggy<1"]}, f"it requires pluggy<1, and pluggy {version('pluggy')} is installed"),
    "requirement-extra": ({"requires": ["gwproxy[nothing-like-this,test]", "a"]}, "and a is not installed"),
    "requirement-garbage": ({"requires": ["!!"]}, "'!!' cannot be read"),
    "python": ({"metadata": "Requires-Python: >=4\n"}, "it requires Python >=4, this is 3."),
    "python-garbage": ({"metadata": "Requires-Python: new\n"}, "'new', which is no version"),
    "python-tag": ({"about": ABOUT.replace("py3", "py2")}, "it is for py2-none-any, and this is Python 3."),
    "version": ({"version": "new"}, "Invalid version: 'new'"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), REFUSED.values(), ids=REFUSED)
def test_a_wheel_that_may_not_be_pushed(changes: dict[str, Any], says: str) -> None:
    if "files" in changes:
        changes = {**changes, "plugins": {"t": "t:T"}}
    with pytest.raises(WheelRefused) as refused:
        read(make_wheel(**changes))
    assert says in refused.value.reason


def test_all_that_this_environment_lacks_is_named_at_once_and_only_if_asked_for() -> None:
    wanted = ['a-b; python_version >= "3.11"', 'never; python_version < "3"', 'for-tests; extra == "test"', "pluggy", "c>1"]
    data = make_wheel(requires=wanted, metadata="Requires-Python: <3.11\n")
    with pytest.raises(WheelRefused) as refused:
        read(data)
    assert refused.value.reason == (
        f"gwproxy-tenant 1.0 cannot run here: it requires Python <3.11, this is {sys.version.split()[0]}; "
        "it requires a-b, and a-b is not installed; it requires c>1, and c is not installed"
    )
    assert read(data, environment=False).requires == tuple(wanted)


def test_what_an_extra_asks_for_is_required_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "base-1.5.dist-info"
    folder.mkdir()
    lines = ['not-there; extra == "more"', 'other; extra == "less"', 'base[more]; extra == "more"', "plain"]
    (folder / "METADATA").write_text("Name: base\nVersion: 1.5\n" + "".join(f"Requires-Dist: {line}\n" for line in lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert read(make_wheel(requires=["base>=1"])).requires == ("base>=1",)
    with pytest.raises(WheelRefused, match=r"cannot run here: it requires not-there, and not-there is not installed$"):
        read(make_wheel(requires=["base[more]>=1"]))


PATHS = {
    "up": "../evil.py", "up-inside": "a/../../evil.py", "dot": "./a.py", "absolute": "/etc/evil.py", "backslash": "..\\evil.py",
    "drive": "c:/evil.py", "empty-part": "a//b.py", "null": "a\0.py", "newline": "a\n.py",
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_path_that_is_none_inside_a_package(path: str) -> None:
    info = zipfile.ZipInfo("x")
    info.filename = path
    with pytest.raises(WheelRefused, match="is no path inside a package"):
        read(_zip((info, b"")))


def _zip(*entries: tuple[zipfile.ZipInfo, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings(action="ignore"):
        for info, data in entries:
            archive.writestr(info, data, kind)
    return stream.getvalue()


def _link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link.py")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


NAME = "gwproxy_tenant-1.0.dist-info"
ONE = zipfile.ZipInfo("a.py")
#: Bytes that are no wheel.
NO_WHEELS = {
    "nothing": (b"", "no sound zip file"),
    "text": (b"not a zip", "no sound zip file"),
    "cut-off": (make_wheel()[:-30], "no sound zip file"),
    "changed": (_zip((ONE, b"original")).replace(b"original", b"0riginal"), "no sound zip file: Bad CRC-32"),
    "twice": (_zip((ONE, b"1"), (ONE, b"2")), "a.py is in it twice"),
    "link": (_zip((_link(), b"/etc/passwd")), "link.py is a link"),
    "packed-otherwise": (_zip((ONE, b"1"), kind=zipfile.ZIP_LZMA), "packed in a way that wheels are not"),
    "no-metadata": (zipped({"a.py": b""}), "0 folders .dist-info"),
    "two": (zipped({f"{NAME}/WHEEL": b"", "x-1.dist-info/WHEEL": b""}), "2 folders .dist-info"),
    "no-record": (zipped({f"{NAME}/METADATA": b"", f"{NAME}/WHEEL": b""}), f"it has no {NAME}/RECORD"),
    "no-utf8": (zipped({f"{NAME}/METADATA": b"", f"{NAME}/WHEEL": b"", f"{NAME}/RECORD": b"\xff"}), "no UTF-8"),
}


@pytest.mark.parametrize(("data", "says"), NO_WHEELS.values(), ids=NO_WHEELS)
def test_bytes_that_are_no_wheel(data: bytes, says: str) -> None:
    with pytest.raises(WheelRefused, match=says):
        read(data)


def test_a_name_that_is_another_than_its_folder() -> None:
    with pytest.raises(WheelRefused, match=r"dist-info is of gwproxy-tenant 1\.0, METADATA of gwproxy-tenbnt 1\.0"):
        read(_renamed())


def _renamed() -> bytes:
    with zipfile.ZipFile(io.BytesIO(make_wheel())) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files[f"{NAME}/METADATA"] = files[f"{NAME}/METADATA"].replace(b"gwproxy-tenant", b"gwproxy-tenbnt")
    del files[f"{NAME}/RECORD"]
    record = [f"{path},{'sha256=' + _b64(data)},{len(data)}" for path, data in files.items()]
    return zipped({**files, f"{NAME}/RECORD": "\n".join(record).encode()})


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("bound", "says"), [("MOST_PACKED", "bytes; 10"), ("MOST_UNPACKED", "bytes unpacked; 10"), ("MOST_FILES", "files; 4")]
)
def test_one_that_is_too_large(monkeypatch: pytest.MonkeyPatch, bound: str, says: str) -> None:
    monkeypatch.setattr(module, bound, int(says.rpartition(" ")[2]))
    with pytest.raises(WheelRefused, match=f"it has .* {says} are the most"):
        read(make_wheel())


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    data = zipped({"zeros.bin": bytes(module.MOST_UNPACKED + 1)})
    assert len(data) < 1 << 20
    with pytest.raises(WheelRefused, match="bytes unpacked"):
        read(data)
