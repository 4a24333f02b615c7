"""Whether the gateway on this machine lives: exit status 0, else 1 and why. ``healthcheck.py [live|ready] [HOST:PORT]``.

Where the listener wants a PROXY header it sends one (LOCAL: it speaks for nobody); GWPROXY_PROXY_FROM must then hold the
address it comes from, 127.0.0.1/32.
"""

from __future__ import annotations

import os
import socket
import sys

LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
TIMEOUT = 2.0  # seconds


def check(what: str = "live", address: str = "127.0.0.1:8080") -> str:
    """Ask the gateway; return what is wrong, or nothing.

    :param what: ``live``: the process serves; ``ready``: it has a configuration and is not about to stop.
    """
    host, _, port = address.rpartition(":")
    preface = LOCAL if os.environ.get("GWPROXY_PROXY_PROTOCOL") == "v2" else b""
    request = f"GET /.well-known/gwproxy/{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection((host.strip("[]"), int(port)), TIMEOUT) as sock:
            sock.sendall(preface + request)
            status = sock.makefile("rb").readline().split()
    except OSError as error:
        return str(error)
    return "" if status[1:2] == [b"200"] else f"answered {status[1].decode() if status[1:] else 'nothing'}"


if __name__ == "__main__":
    sys.exit(check(*sys.argv[1:]) or 0)
