"""Balancers before the same four services, one of which is slow: gwproxy, nginx and HAProxy, by each of their algorithms."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import get_args

from gwproxy.model import Upstream
from harness.bench import HERE, TREE, Bench
from harness.gateways import Gateway, Gwproxy
from harness.prober import ask
from harness.process import Child, free_port
from harness.upstream import temporary

#: Seconds that each service takes for an answer.
DELAYS = (0.05, 0.05, 0.05, 0.5)
#: That nginx and HAProxy know by other names.
NGINX = {"round_robin": "", "least_connections": "least_conn;", "random": "random;", "two_choices": "random two least_conn;"}
HAPROXY = {"round_robin": "roundrobin", "least_connections": "leastconn", "random": "random(1)", "two_choices": "random(2)"}


class Service:
    """``delayed.py`` in a process."""

    def __init__(self, bench: Bench, stack: ExitStack, delay: float) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        command = [sys.executable, str(HERE / "gateways" / "delayed.py"), str(self.port), str(delay)]
        stack.enter_context(Child(command, bench.place("service") / "output.log", bench.load_cores)).listening(self.port)

    @property
    def answered(self) -> int:
        return int(ask(self.port, "/count", {})[2])


_NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  {temporary}
  upstream services {{ {method} {servers} keepalive 256; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://services; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


class BalancingNginx(Gateway):
    """nginx; its name is followed by the algorithm."""

    def __init__(self, bench: Bench, stack: ExitStack, services: Sequence[Service], algorithm: str) -> None:
        super().__init__(bench, stack, f"nginx, {algorithm}")
        servers = " ".join(f"server {service.address};" for service in services)
        names = {"folder": self.folder, "temporary": temporary(self.folder), "port": self.port}
        config = self.write("nginx.conf", _NGINX.format(method=NGINX[algorithm], servers=servers, **names))
        self.spawn(["nginx", "-e", self.folder / "error.log", "-c", config])


class BalancingHaproxy(Gateway):
    """HAProxy, with one thread."""

    def __init__(self, bench: Bench, stack: ExitStack, services: Sequence[Service], algorithm: str) -> None:
        super().__init__(bench, stack, f"haproxy, {algorithm}")
        servers = "\n".join(f"  server service-{number} {service.address}" for number, service in enumerate(services))
        timeouts = "timeout connect 5s\n timeout client 60s\n timeout server 60s"
        front = f"frontend clients\n bind 127.0.0.1:{self.port}\n default_backend services"
        back = f"backend services\n balance {HAPROXY[algorithm]}\n http-reuse always\n{servers}"
        text = f"global\n maxconn 4096\n nbthread 1\ndefaults\n mode http\n {timeouts}\n{front}\n{back}\n"
        self.spawn(["haproxy", "-db", "-f", self.write("haproxy.cfg", text)])


def balancing_gwproxy(bench: Bench, stack: ExitStack, services: Sequence[Service], algorithm: str) -> Gateway:
    targets = [{"url": f"http://{service.address}"} for service in services]
    document = {"upstreams": {"services": {"targets": targets, "algorithm": algorithm}}, "routes": [{"path": "/", "upstream": "services"}]}
    return Gwproxy(bench, stack, TREE, json.dumps(document), name=f"gwproxy, {algorithm}")


def algorithms() -> list[str]:
    """Return those of gwproxy that spread requests, which a hash does by key and not by load."""
    return [name for name in get_args(Upstream.model_fields["algorithm"].annotation) if name != "consistent_hash"]


def makers(bench: Bench, stack: ExitStack, services: Sequence[Service]) -> Mapping[str, Callable[[], Gateway]]:
    """Return what starts each balancer with each algorithm that it has, by their names together."""
    kinds = (("gwproxy", algorithms(), balancing_gwproxy), ("nginx", NGINX, BalancingNginx), ("haproxy", HAPROXY, BalancingHaproxy))
    return {f"{kind}, {name}": partial(make, bench, stack, services, name) for kind, names, make in kinds for name in names}
