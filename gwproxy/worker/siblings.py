"""What a master knows of its workers: which of them have ended, whatever they died of."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

from gwproxy.process import Identity, make_worker_id

REMEMBERED = 256  # workers that have ended: those that come after the last one's successor know of it already


class Siblings:
    """The workers that one master has made.

    Kept in the master, which does nothing but remember: it must not wait for a store. Each worker that it forks has the
    memory of that moment, and tells it to those who ask about workers.
    """

    def __init__(self) -> None:
        self._living: dict[str, Any] = {}
        self._departed: deque[str] = deque(maxlen=REMEMBERED)

    def add(self, worker: Any) -> str:
        """Remember a worker that is about to be forked; return its token.

        :param worker: gunicorn's, whose ``pid`` the master sets after the fork, and whose ``tmp`` it closes when the
            process has been reaped.
        """
        for token, sibling in list(self._living.items()):
            if _reaped(sibling):
                del self._living[token]
                self._departed.append(make_worker_id(sibling.pid, token))
        token = os.urandom(3).hex()
        self._living[token] = worker
        return token

    def identity(self, token: str) -> Identity:
        """Return who this process is: the worker that got ``token``, after the fork."""
        return Identity(make_worker_id(os.getpid(), token), tuple(self._departed))


def _reaped(worker: Any) -> bool:
    try:
        worker.tmp.fileno()
    except ValueError:  # it is closed
        return True
    return False
