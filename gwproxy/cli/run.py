"""``gwproxy run``: the gateway under gunicorn, with a store if there is none, following a file if one is given."""

from __future__ import annotations

import dataclasses
import http.client
import os
import sys
import threading
import time
from pathlib import Path

import click

from gwproxy.cli import run_file
from gwproxy.cli.supervisor import ConfigFile, Supervisor, gunicorn_command, locked, run_info
from gwproxy.errors import CommandFailed, ConfigurationRefused
from gwproxy.settings import Settings
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.connection import connect, mask_url
from gwproxy.store.embedded import EmbeddedStore

READY_PATH = "/.well-known/gwproxy/ready"
_WAITING_AFTER = 3.0  # seconds without a configuration until that is said
_READY_WITHIN = 60.0  # seconds until the waiting for a ready worker is given up; the gateway goes on

EPILOG = """\b
Examples:
  gwproxy run gateway.yaml                  publish the file, serve it, follow its edits
  gwproxy run --redis redis://10.0.0.9/0    serve what is in that Redis
  gwproxy run gateway.yaml --bind 0.0.0.0:8080 --workers 4

Settings of gunicorn come from gwproxy itself, then ./gunicorn.conf.py or --gunicorn-conf, then these options.
"""


@click.command(epilog=EPILOG)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--bind", default="127.0.0.1:8080", show_default=True, help="Address of the data listener.")
@click.option("--workers", type=click.IntRange(1, 512), help="Worker processes. Default: one a core, two at least.")
@click.option("--redis", "redis_url", metavar="URL", help="The store. Default: GWPROXY_REDIS_URL, else an embedded one.")
@click.option("--gunicorn-conf", type=click.Path(path_type=Path), help="Settings of gunicorn. Default: ./gunicorn.conf.py, if there.")
def command(config: Path | None, bind: str, workers: int | None, redis_url: str | None, gunicorn_conf: Path | None) -> int:
    """Run the gateway.

    With CONFIG, the file is published as a new revision at start and on each edit, when it differs from what was
    published last. An invalid file at start is refused; an invalid edit is reported, and the last good one serves on.
    Without a store at --redis or GWPROXY_REDIS_URL, an embedded one is started, kept in the state folder.
    """
    settings = Settings.from_environment()
    settings = dataclasses.replace(settings, redis_url=redis_url or settings.redis_url)
    return serve(settings, config, bind=bind, workers=workers, gunicorn_conf=gunicorn_conf)


def serve(settings: Settings, config: Path | None, *, bind: str, workers: int | None, gunicorn_conf: Path | None = None) -> int:
    """Run the gateway until it is stopped.

    :return: the exit status.
    :raises CommandFailed: it could not be started; says what to do.
    """
    if config is not None and not config.is_file():
        raise CommandFailed(f"{config} is not there, or no file")
    if gunicorn_conf is not None and not gunicorn_conf.is_file():
        raise CommandFailed(f"{gunicorn_conf} is not there, or no file")
    with locked(settings.state_dir, bind):
        embedded = None
        try:
            if settings.redis_url is None:
                embedded = EmbeddedStore(settings.state_dir / "store")
                embedded.start()
            url = settings.redis_url or (embedded.url if embedded else "")
            return _serve(settings, config, bind, workers, gunicorn_conf, embedded, url)
        finally:
            run_file.remove(settings.state_dir)
            if embedded is not None:
                embedded.stop()


def _serve(
    settings: Settings,
    config: Path | None,
    bind: str,
    workers: int | None,
    gunicorn_conf: Path | None,
    embedded: EmbeddedStore | None,
    url: str,
) -> int:
    file = None
    if config is not None:
        store = ConfigurationStore(connect(url, timeout=2.0), settings.prefix)
        file = ConfigFile(config, settings, store, _say)
        try:
            file.publish(file.read())
        except ConfigurationRefused as refused:
            for problem in refused.problems:
                click.echo(str(problem), err=True)
            raise CommandFailed(f"{config} has {len(refused.problems)} problem(s); nothing was started") from None
    environ = {
        **os.environ,
        "GWPROXY_REDIS_URL": url,
        "GWPROXY_PREFIX": settings.prefix,
        "GWPROXY_STATE_DIR": str(settings.state_dir.resolve()),
    }
    conf = gunicorn_conf or (Path("gunicorn.conf.py") if Path("gunicorn.conf.py").is_file() else None)
    if conf is not None:
        environ["GWPROXY_GUNICORN_CONF"] = str(conf.resolve())
    supervisor = Supervisor(gunicorn_command(bind=bind, workers=workers, log_level=settings.log_level), environ, embedded, file)

    def started() -> None:
        run_file.write(settings.state_dir, run_info(settings, bind=bind, redis_url=url))
        _say(f"store: {'embedded, in ' + str(settings.state_dir) if embedded else mask_url(url)}")
        threading.Thread(target=_announce, args=(bind,), daemon=True).start()

    return supervisor.run(started)


def _announce(bind: str) -> None:
    """Say when the gateway is ready, or that it waits for a configuration."""
    began, waiting = time.monotonic(), False
    while time.monotonic() - began < _READY_WITHIN:
        status = _probe(bind)
        if status == 200:
            _say(f"ready: http://{bind}")
            return
        if status == 503 and not waiting and time.monotonic() - began > _WAITING_AFTER:
            waiting = True
            _say("waiting for a configuration: SET gw:routes in the store, or name a file: gwproxy run gateway.yaml")
        time.sleep(0.1)


def _probe(bind: str) -> int:
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    connection = http.client.HTTPConnection("127.0.0.1" if host in ("", "0.0.0.0") else host, int(port), timeout=1)  # noqa: S104
    try:
        connection.request("GET", READY_PATH)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _say(line: str) -> None:
    print(f"gwproxy: {line}", file=sys.stderr, flush=True)
