"""A certificate authority, and a service within TLS that counts handshakes and says who it talks to."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from tests.e2e.scripted import _head


class Authority:
    """A CA of its own, and the files it signs.

    :ivar file: its certificate, PEM.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.file = self._path("ca")
        self.ca.cert_pem.write_to_path(self.file)

    def issue(self, *names: str, expired: bool = False) -> str:
        """Return a PEM file with a certificate for ``names`` and its key."""
        path = self._path(names[0])
        until = datetime.now(UTC) - timedelta(days=1) if expired else None
        self.ca.issue_cert(*names, not_after=until).private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def _path(self, name: str) -> str:
        return str(self.folder / f"{len(list(self.folder.iterdir()))}-{name}.pem")


class SecureService:
    """Answers every request with JSON: the name it was asked for in the handshake, the peer's name, the ``Host`` of the request.

    :param certificate: a PEM file.
    :param clients: a CA file; then a peer has to show a certificate that it signed.

    :ivar handshakes: how many were completed.
    """

    def __init__(self, certificate: str, clients: str | None = None) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.context.sni_callback = lambda sock, name, _: self._asked.__setitem__(id(sock), name)
        if clients is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(clients)
        self._asked: dict[int, str | None] = {}
        self.handshakes = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}"

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(30)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain, self.context.wrap_socket(plain, server_side=True) as sock:
            self.handshakes += 1
            subject = (sock.getpeercert() or {}).get("subjectAltName", ((None, None),))
            with sock.makefile("rb") as stream:
                while head := _head(stream.readline):
                    fields = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:-2])
                    told = {
                        "name": self._asked.get(id(sock)),
                        "peer": subject[0][1],
                        "host": fields["Host"],
                        "protocol": sock.selected_alpn_protocol(),
                    }
                    data = json.dumps(told).encode()
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
