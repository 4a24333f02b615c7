"""The gateways, each as it would be run in production, with one worker, keep-alive to the upstream, on the gateway's core."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import jwt

from harness import tools
from harness.bench import HERE, TREE, Bench
from harness.prober import ask
from harness.process import Child, Usage, free_port, until
from harness.upstream import temporary

SECRET = "a-secret-of-benchmarks-with-more-than-32-bytes"
ORIGIN = "https://app.example.com"
BARE: Mapping[str, str] = {"Accept": "application/json", "User-Agent": "benchmark/1.0"}


def signed_in() -> dict[str, str]:
    """Return the headers of a page's request with a token, as the five plugins want them."""
    token = jwt.encode({"sub": "user-7", "exp": int(time.time()) + 36_000}, SECRET, "HS256")
    return {**BARE, "Origin": ORIGIN, "Authorization": f"Bearer {token}"}


class Gateway:
    """A gateway that runs until its stack closes.

    :ivar path: what is asked for.
    :ivar headers: what a request carries.
    :ivar cores: where it runs.
    """

    def __init__(self, bench: Bench, stack: ExitStack, name: str, path: str = "/api/items/7", headers: Mapping[str, str] = BARE) -> None:
        self.bench = bench
        self.stack = stack
        self.name = name
        self.path = path
        self.headers = headers
        self.port = free_port()
        self.folder = bench.place(re.sub(r"\W+", "-", name))
        self.cores: set[int] = bench.gateway_cores

    def spawn(self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        log = self.folder / "output.log"
        self.child = self.stack.enter_context(Child([str(part) for part in command], log, self.cores, env, cwd or self.folder))
        self.child.listening(self.port)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def usage(self) -> Usage:
        return self.child.usage()

    def tail(self) -> str:
        return self.child.tail()


class Direct(Gateway):
    """No gateway: the upstream itself, to tell what is added to it."""

    label = "upstream itself"

    def __init__(self, bench: Bench, stack: ExitStack) -> None:
        super().__init__(bench, stack, self.label)
        self.port = bench.upstream.port

    def usage(self) -> Usage:
        return self.bench.upstream.usage()


_NGINX = """
worker_processes 1;
worker_cpu_affinity {affinity};
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  proxy_max_temp_file_size 0;
  {temporary}
  upstream service {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $proxy_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"""


class Nginx(Gateway):
    """nginx's ``proxy_pass``."""

    def __init__(self, bench: Bench, stack: ExitStack, path: str = "/api/items/7", headers: Mapping[str, str] = BARE) -> None:
        super().__init__(bench, stack, "nginx", path, headers)
        affinity = format(sum(1 << core for core in self.cores), "b")
        config = _NGINX.format(
            affinity=affinity, folder=self.folder, temporary=temporary(self.folder), upstream=bench.upstream.address, port=self.port
        )
        self.spawn(["nginx", "-e", self.folder / "error.log", "-c", self.write("nginx.conf", config)])


class Caddy(Gateway):
    """Caddy's ``reverse_proxy``, with as many threads as cores: one."""

    def __init__(self, bench: Bench, stack: ExitStack, path: str = "/api/items/7", headers: Mapping[str, str] = BARE) -> None:
        super().__init__(bench, stack, "caddy", path, headers)
        proxy = (
            f"reverse_proxy {bench.upstream.address} {{\n transport http {{\n keepalive 600s\n keepalive_idle_conns_per_host 64\n }}\n }}"
        )
        server = f"{{\n admin off\n auto_https off\n log {{\n level ERROR\n }}\n}}\nhttp://127.0.0.1:{self.port} {{\n {proxy}\n}}\n"
        config = self.write("Caddyfile", server)
        env = {"GOMAXPROCS": str(len(self.cores)), "XDG_DATA_HOME": str(self.folder), "XDG_CONFIG_HOME": str(self.folder)}
        self.spawn([tools.caddy(), "run", "--config", config, "--adapter", "caddyfile"], env)


class Naive(Gateway):
    """The obvious code: gunicorn's own gevent worker, and ``requests.Session.request`` for each request.

    :param redis: with it, it does by hand what the five plugins do.
    """

    def __init__(self, bench: Bench, stack: ExitStack, headers: Mapping[str, str] = BARE, redis: int | None = None) -> None:
        super().__init__(bench, stack, "naive", headers=headers)
        env = {"PYTHONPATH": str(HERE / "gateways"), "BENCH_UPSTREAM": bench.upstream.url, "BENCH_SECRET": SECRET, "BENCH_ORIGIN": ORIGIN}
        if redis:
            env["BENCH_REDIS"] = f"redis://127.0.0.1:{redis}"
        bind = f"127.0.0.1:{self.port}"
        options = ["-k", "gevent", "-w", "1", "-b", bind, "--keep-alive", "600", "--log-level", "warning"]
        self.spawn([sys.executable, "-m", "gunicorn", *options, "naive:application"], env)


FIVE_PLUGINS: Sequence[Mapping[str, object]] = (
    {"name": "cors", "config": {"origins": [ORIGIN]}},
    {"name": "jwt_auth", "config": {"secret": SECRET}},
    {"name": "rate_limit", "config": {"limit": 1_000_000_000, "window_seconds": 3600}},
    {"name": "request_transform", "config": {"add_headers": {"X-Gateway": "gwproxy"}, "remove_headers": ["Cookie"]}},
    {"name": "access_log"},
)


def document(
    bench: Bench,
    routes: int = 10,
    plugins: Sequence[Mapping[str, object]] = (),
    *,
    served: str = "/api/items",
    under: str = "",
    marks: Sequence[str] = (),
) -> str:
    """Return a configuration of so many routes.

    :param plugins: of the route that is asked for.
    :param served: the path of that route.
    :param under: where the others are; all of them differ between two documents that differ in this.
    :param marks: paths of further routes, by which it is seen which document is live.
    """
    upstream = bench.upstream.url
    entries: list[dict[str, object]] = [
        {
            "path": f"{under}/service-{n % 50}/resource-{n}/{{id}}",
            "upstream": upstream,
            "plugins": [{"name": "rate_limit", "config": {"limit": 100}}],
        }
        for n in range(routes - 1 - len(marks))
    ]
    entries += [{"path": path, "upstream": upstream} for path in marks]
    return json.dumps([*entries, {"path": served, "upstream": upstream, "plugins": list(plugins)}])


class Gwproxy(Gateway):
    """gwproxy with its packaged settings, following a file, or a Redis where there is one.

    :param tree: the checkout that is measured.
    :param text: the configuration.
    :param redis: port of the store.
    :param settings: further lines of ``gunicorn.conf.py``.
    :param cores: None: the gateway's core.
    """

    def __init__(
        self,
        bench: Bench,
        stack: ExitStack,
        tree: Path,
        text: str,
        *,
        name: str = "gwproxy",
        path: str = "/api/items/7",
        headers: Mapping[str, str] = BARE,
        redis: int | None = None,
        workers: int = 1,
        settings: str = "",
        cores: set[int] | None = None,
    ) -> None:
        super().__init__(bench, stack, name, path, headers)
        self.cores = cores or self.cores
        config = self.write("gateway.json", text)
        conf = self.write("gunicorn.conf.py", (tree / "gunicorn.conf.py").read_text() + settings)
        env = {
            "PYTHONPATH": os.pathsep.join([str(tree), str(HERE / "plugin")]),
            "GWPROXY_CONFIG": str(config),
            "GWPROXY_STATE_DIR": str(self.folder / "state"),
            "GWPROXY_LOG_LEVEL": "warning",
            "GWPROXY_REDIS_URL": f"redis://127.0.0.1:{redis}/0" if redis else "",
        }
        command: list[str | Path] = [interpreter(tree), "-m", "gunicorn", "-c", conf, "-w", str(workers), "-b", f"127.0.0.1:{self.port}"]
        self.spawn([*command, "--log-level", "warning", "gwproxy.wsgi:application"], env)
        until(lambda: ask(self.port, "/.well-known/gwproxy/ready", {})[0] == 200, f"{name} to have its configuration", 60)


def interpreter(tree: Path) -> str:
    """Return the Python of a checkout: its own environment's where it has one, for it may need other packages."""
    if TREE in (tree, *tree.parents):  # a compiled copy, too
        return sys.executable
    for folder in (".venv-test", ".venv"):
        if (found := tree / folder / "bin" / "python").exists():
            return str(found)
    return sys.executable


class Fastify(Gateway):
    """Fastify with ``@fastify/http-proxy``; with a Redis also its plugins for what the five do."""

    def __init__(self, bench: Bench, stack: ExitStack, headers: Mapping[str, str] = BARE, redis: int | None = None) -> None:
        super().__init__(bench, stack, "fastify", headers=headers)
        modules = tools.fastify() / "node_modules"
        (self.folder / "node_modules").symlink_to(modules)
        program = self.write("fastify.js", (HERE / "gateways" / "fastify.js").read_text())
        env = {"PORT": str(self.port), "BENCH_UPSTREAM": bench.upstream.url, "BENCH_SECRET": SECRET, "BENCH_ORIGIN": ORIGIN}
        if redis:
            env["BENCH_REDIS"] = str(redis)
        self.spawn(["node", program], {**env, "NODE_ENV": "production"})


_EXPRESS_SYSTEM = """
db: {{redis: {{host: 127.0.0.1, port: {redis}, namespace: EG, emulate: {emulate}}}}}
crypto: {{cipherKey: sensitiveKey, algorithm: aes256, saltRounds: 10}}
session: {{secret: keyboard cat, resave: false, saveUninitialized: false}}
accessTokens: {{timeToExpiry: 7200000}}
refreshTokens: {{timeToExpiry: 7200000}}
authorizationCodes: {{timeToExpiry: 300000}}
"""

_EXPRESS_GATEWAY = """
http: {{port: {port}, hostname: 127.0.0.1}}
apiEndpoints: {{api: {{host: '*', paths: '/*'}}}}
serviceEndpoints: {{service: {{url: '{upstream}'}}}}
policies: [proxy, cors, jwt, rate-limit, request-transformer, log]
pipelines: {{main: {{apiEndpoints: [api], policies: {policies}}}}}
"""


class ExpressGateway(Gateway):
    """Express Gateway; with a Redis also its policies for what the five do. Its log policy writes to standard output: a file here."""

    def __init__(self, bench: Bench, stack: ExitStack, headers: Mapping[str, str] = BARE, redis: int | None = None) -> None:
        super().__init__(bench, stack, "express-gateway", headers=headers)
        (self.folder / "node_modules").symlink_to(tools.express_gateway() / "node_modules")
        (self.folder / "models").symlink_to(self.folder / "node_modules" / "express-gateway" / "lib" / "config" / "models")
        policies: list[dict[str, object]] = [{"proxy": {"action": {"serviceEndpoint": "service", "changeOrigin": True}}}]
        if redis:
            limit = {"max": 1_000_000_000, "windowMs": 3_600_000, "delayAfter": 0, "delayMs": 0, "rateLimitBy": "${req.user.sub}"}
            policies = [
                {"log": {"action": {"message": "${req.method} ${req.originalUrl}"}}},
                {"cors": {"action": {"origin": [ORIGIN]}}},
                {"jwt": {"action": {"secretOrPublicKey": SECRET, "checkCredentialExistence": False}}},
                {"rate-limit": {"action": limit}},
                {"request-transformer": {"action": {"headers": {"add": {"X-Gateway": "'express'"}, "remove": ["Cookie"]}}}},
                *policies,
            ]
        self.write("system.config.yml", _EXPRESS_SYSTEM.format(redis=redis or 6379, emulate=str(not redis).lower()))
        text = _EXPRESS_GATEWAY.format(port=self.port, upstream=self.bench.upstream.url, policies=json.dumps(policies))
        self.write("gateway.config.yml", text)
        program = self.write("server.js", "require('express-gateway')().load(__dirname).run()\n")
        level = "info" if redis else "error"
        self.spawn(["node", program], {"NODE_ENV": "production", "LOG_LEVEL": level, "EG_CONFIG_DIR": str(self.folder)})
