"""Scripts in greenlets, as in a worker: in a process of its own, since patching is for good."""

from __future__ import annotations

import subprocess
import sys
import textwrap

START = """
from gevent import monkey
monkey.patch_all()
import gevent, os, signal, sys, time
from gwproxy.errors import StoreUnavailable
from gwproxy.store.breaker import Breaker
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.connection import connect
from gwproxy.store.roundtrips import RoundTrips
from gwproxy.store.shared import RedisStore
url, pid = sys.argv[1], int(sys.argv[2])
"""


def run(server, script: str, before: str = "store = RedisStore.from_url(url)\n") -> list[str]:
    """Run ``script``; return the lines it has printed."""
    code = START + before + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code, server.url, str(server.process.pid)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
