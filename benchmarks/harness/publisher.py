"""Publish documents in turns, at an interval, until it is ended: a process of its own, started with a port, seconds and files."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import redis

READY = "publishing"


def publish(store: redis.Redis, document: bytes) -> None:
    """Make a configuration live, as any client may: ``SET``, then the hint that it changed."""
    store.set("gw:routes", document)
    store.publish("gw:reload", "")


def main() -> None:
    port, interval, *files = sys.argv[1:]
    store = redis.Redis(port=int(port))
    documents = [Path(file).read_bytes() for file in files]
    print(READY, flush=True)
    for document in itertools.cycle(documents):
        began = time.monotonic()
        publish(store, document)
        time.sleep(max(0.0, began + float(interval) - time.monotonic()))


if __name__ == "__main__":
    main()
