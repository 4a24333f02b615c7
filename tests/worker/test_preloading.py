"""What the master imports for its workers: all of the gateway's own, nothing of others, and nothing is begun by it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gwproxy.worker.preloading import APP
from tests.e2e.strangers import install

LOOK = """
from gevent import monkey; monkey.patch_all()
import gc, json, socket, sys, threading
from gwproxy.worker import worker
from gwproxy.worker.preloading import preload

def ours():
    return {name for name in sys.modules if name.partition(".")[0] in ("gwproxy", "gwproxy_strangers", "jwt", "requests", "werkzeug")}

def begun():
    return threading.active_count(), sum(isinstance(thing, socket.socket) for thing in gc.get_objects())

before, running = ours(), begun()
preload(sys.argv[1])
shared, afterwards = ours(), begun()
import gwproxy.wsgi
from gwproxy.registry import Registry
Registry.discover()
print(json.dumps({"shared": sorted(shared - before), "own": sorted(ours() - shared), "begun": [running, afterwards]}))
"""


def look(app: str, path: str) -> dict[str, list[str]]:
    """What the master and then a worker import, with the plugins of a stranger installed."""
    done = subprocess.run([sys.executable, "-c", LOOK, app], env={"PYTHONPATH": path}, capture_output=True, timeout=60, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_a_worker_has_nothing_left_to_import_but_its_app_and_what_others_wrote(tmp_path: Path) -> None:
    found = look(APP, install(tmp_path))
    assert {"gwproxy.app", "gwproxy.plugins.jwt_auth", "jwt"} <= set(found["shared"])
    assert found["own"] == ["gwproxy.wsgi", "gwproxy_strangers"]
    assert found["begun"][0] == found["begun"][1]  # no thread, no socket


def test_nothing_is_imported_for_another_app(tmp_path: Path) -> None:
    found = look("somebody.else:application", install(tmp_path))
    assert found["shared"] == []
    assert "gwproxy.app" in found["own"]
