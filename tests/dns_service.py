"""A small real DNS server whose answers a test changes: ``python dns_service.py PORT FOLDER``, over UDP and TCP.

``FOLDER/zone.json`` is read for each query: ``{"A users.internal": {"ttl": 1, "records": ["127.0.0.2"]}}``; of SRV a record is ``"0 5
8001 one.users.internal"``. ``"rcode": "SERVFAIL"`` instead of records answers that. A name of which nothing stands there does not exist.
Every query is a line of ``FOLDER/queries``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, SRV, A
from dnslib.server import BaseResolver, DNSLogger, DNSServer


class Zone(BaseResolver):
    """Answers from the folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "zone.json"
        self._queries = folder / "queries"

    def resolve(self, request: Any, handler: Any) -> Any:
        zone = json.loads(self._file.read_text())
        name, kind = str(request.q.qname).rstrip("."), QTYPE[request.q.qtype]
        with self._queries.open("a") as file:
            file.write(f"{kind} {name} {handler.protocol}\n")
        reply = request.reply()
        held = zone.get(f"{kind} {name}") or zone.get(f"CNAME {name}")
        if held is None:
            exists = any(key.partition(" ")[2] == name for key in zone)
            reply.header.rcode = RCODE.NOERROR if exists else RCODE.NXDOMAIN
        elif "rcode" in held:
            reply.header.rcode = getattr(RCODE, held["rcode"])
        else:
            kind = kind if f"{kind} {name}" in zone else "CNAME"
            for text in held["records"]:
                reply.add_answer(RR(request.q.qname, getattr(QTYPE, kind), rdata=_record(kind, text), ttl=held["ttl"]))
        if handler.protocol == "udp" and len(reply.pack()) > 512:  # truncated, as servers do
            reply.header.tc, reply.rr = 1, []
        return reply


def _record(kind: str, text: str) -> Any:
    if kind == "SRV":
        priority, weight, port, target = text.split()
        return SRV(int(priority), int(weight), int(port), target)
    return {"A": A, "AAAA": AAAA, "CNAME": CNAME}[kind](text)


def write_zone(folder: Path, zone: dict[str, object]) -> None:
    """Change the answers; a query that comes meanwhile gets those before."""
    (folder / "zone.new").write_text(json.dumps(zone))
    os.replace(folder / "zone.new", folder / "zone.json")


def records(*texts: str, ttl: int = 1) -> dict[str, object]:
    return {"ttl": ttl, "records": list(texts)}


def queries(folder: Path, query: str) -> int:
    """How often ``A users.internal`` was asked."""
    file = folder / "queries"
    return sum(line.startswith(f"{query} ") for line in file.read_text().splitlines()) if file.exists() else 0


def serve(port: int, folder: Path) -> list[DNSServer]:
    """Start a server in threads of this process."""
    logger = DNSLogger(logf=lambda text: None)
    servers = [DNSServer(Zone(folder), "127.0.0.1", port, tcp=tcp, logger=logger) for tcp in (False, True)]
    for server in servers:
        server.start_thread()
    return servers


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
    threading.Event().wait()
