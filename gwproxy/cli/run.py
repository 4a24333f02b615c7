"""``gwproxy run``: the gateway under gunicorn, with a store if there is none, following a file if one is given."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from gwproxy.admin import token_file
from gwproxy.cli import run_file
from gwproxy.cli.admin_process import AdminProcess, environ_for, shown
from gwproxy.cli.admin_process import listening as admin_listening
from gwproxy.cli.announcement import Announcement, Listening, reachable
from gwproxy.cli.followed_file import FollowedFile
from gwproxy.cli.supervisor import Supervisor, gunicorn_command, locked, say
from gwproxy.errors import CommandFailed, StoreUnavailable
from gwproxy.settings import DEFAULT_ADMIN_BIND, Settings, split_bind
from gwproxy.settings import admin_bind as admin_bind_of
from gwproxy.store.audit import AuditLog
from gwproxy.store.configuration import ConfigurationStore, Retention
from gwproxy.store.connection import check_prefix, connect, mask_url
from gwproxy.store.embedded import EmbeddedStore

DEFAULT_BIND = "127.0.0.1:8080"
ADMIN_BIND_HELP = f"Address of the admin listener, or 'off'. Default: GWPROXY_ADMIN_BIND, else {DEFAULT_ADMIN_BIND}."
STORE_TIMEOUT = 2.0  # seconds
EMBEDDED = "embedded"

EPILOG = """\b
Examples:
  gwproxy run gateway.yaml                  publish the file, serve it, follow its edits
  gwproxy run --redis redis://10.0.0.9/0    serve what is in that Redis
  gwproxy run gateway.yaml --bind 0.0.0.0:8080 --workers 4

Settings of gunicorn come from gwproxy itself, then ./gunicorn.conf.py or --gunicorn-conf, then these options.
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be run.

    :ivar config: the file to publish and follow; None: what is in the store.
    :ivar bind: None: as gunicorn's settings say, :data:`DEFAULT_BIND` if they say nothing.
    :ivar workers: None: as gunicorn's settings say.
    :ivar gunicorn_conf: None: gunicorn's settings are those of gwproxy.
    """

    settings: Settings
    config: Path | None = None
    bind: str | None = None
    workers: int | None = None
    gunicorn_conf: Path | None = None


@click.command(epilog=EPILOG)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--bind", metavar="HOST:PORT", help=f"Address of the data listener. Default: {DEFAULT_BIND}.")
@click.option("--admin-bind", metavar="HOST:PORT", help=ADMIN_BIND_HELP)
@click.option("--workers", type=click.IntRange(1, 512), help="Worker processes. Default: one a core, two at least.")
@click.option("--redis", "redis_url", metavar="URL", help="The store. Default: GWPROXY_REDIS_URL, else an embedded one.")
@click.option("--gunicorn-conf", type=click.Path(path_type=Path), help="Settings of gunicorn. Default: ./gunicorn.conf.py, if there.")
def command(
    config: Path | None, bind: str | None, admin_bind: str | None, workers: int | None, redis_url: str | None, gunicorn_conf: Path | None
) -> int:
    """Run the gateway.

    With CONFIG, the file is published as a new revision at start and on each edit, when it differs from what was
    published last. An invalid file at start is refused; an invalid edit is reported, and the last good one serves on.
    Without a store at --redis or GWPROXY_REDIS_URL, an embedded one is started, kept in the state folder.

    Ctrl-C or SIGTERM lets requests under way finish; Ctrl-C again does not. SIGHUP reads gunicorn's settings again and
    replaces the workers.
    """
    settings = Settings.from_environment()
    settings = dataclasses.replace(settings, redis_url=redis_url or settings.redis_url)
    if admin_bind is not None:
        settings = dataclasses.replace(settings, admin_bind=admin_bind_of(admin_bind))
    return serve(Wanted(settings, config, bind, workers, gunicorn_conf or usual_conf()))


def usual_conf() -> Path | None:
    """Return ``./gunicorn.conf.py``; None if there is none."""
    path = Path("gunicorn.conf.py")
    return path if path.is_file() else None


def serve(wanted: Wanted, ready: Callable[[Listening], None] | None = None) -> int:
    """Run the gateway until it is stopped.

    :param ready: called once, when it serves; None says what to do next.
    :return: the exit status.
    :raises CommandFailed: it could not be started; says what to do.
    :raises ConfigurationRefused: the file is not valid; nothing was started.
    """
    settings = wanted.settings
    for path in (wanted.config, wanted.gunicorn_conf):
        if path is not None and not path.is_file():
            raise CommandFailed(f"{path} is not there, or no file")
    if wanted.bind is not None or wanted.gunicorn_conf is None:
        check_bind(wanted.bind or DEFAULT_BIND)
    with locked(settings.state_dir), contextlib.ExitStack() as stack:
        admin = None
        if settings.admin_bind is not None:
            admin = stack.enter_context(admin_listening(settings.admin_bind))
            token_file.ensure(settings)
        embedded, url = None, settings.redis_url
        if url is None:
            embedded = stack.enter_context(EmbeddedStore(settings.state_dir / "store"))
            url = embedded.url
        check_prefix(url, settings.prefix)
        stack.callback(run_file.remove, settings.state_dir)
        return _supervise(wanted, embedded, url, admin, ready)


def _supervise(
    wanted: Wanted, embedded: EmbeddedStore | None, url: str, listener: socket.socket | None, ready: Callable[[Listening], None] | None
) -> int:
    settings = wanted.settings
    client = connect(url, timeout=STORE_TIMEOUT, max_connections=2)
    store = ConfigurationStore(client, settings.prefix, Retention(settings.history_keep, settings.history_days))
    say(f"store: {f'embedded, in {settings.state_dir}' if embedded else mask_url(url)}")
    file = None
    if wanted.config is not None:
        audit = AuditLog(client, settings.prefix)
        file = FollowedFile(wanted.config, settings, store, audit, EMBEDDED if embedded else mask_url(url), say)
        try:
            file.start()
        except StoreUnavailable as error:
            raise CommandFailed(f"{wanted.config} cannot be published: the store {mask_url(url)} does not answer: {error}") from None
    admin, admin_shown = None, ""
    if listener is not None:
        admin_shown = shown(listener)
        say(f"admin: {admin_shown}; its token is in {token_file.ensure(settings)}")
        admin = AdminProcess(listener, environ_for(listener, settings, url, settings.prefix), say)
    command = gunicorn_command(bind=wanted.bind, workers=wanted.workers)
    supervisor = Supervisor(command, _environ(wanted, url, admin_shown), embedded, admin)
    since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    announcement: Announcement | None = None

    def listening(found: Listening) -> None:
        nonlocal announcement
        try:
            run_file.write(settings.state_dir, run_file.RunInfo(os.getpid(), url, settings.prefix, found.bind, since, admin_shown))
        except OSError as error:
            say(f"other commands will not find this gateway by itself: {settings.state_dir}: {error.strerror}")
        announcement = Announcement(store, settings.prefix, found, since, say, lambda: (ready or next_steps(wanted.config))(found))

    def look() -> None:
        if announcement is not None:
            announcement.look()
        if file is not None:
            file.look()

    return supervisor.run(listening, look)


def next_steps(config: Path | None) -> Callable[[Listening], None]:
    """Return what says what there is to do with a gateway that serves."""

    def tell(listening: Listening) -> None:
        if config is not None:
            say(f"an edit of {config} is live on save")
        say("what runs: gwproxy status; the access log: gwproxy logs -f")
        if listening.urls:
            say(f"where a request goes, and why: gwproxy explain GET {reachable(listening.urls[0])}/")

    return tell


def check_bind(bind: str) -> None:
    """Refuse an address that cannot be listened on before anything is started; a UNIX socket is left to gunicorn.

    :raises CommandFailed: saying why.
    """
    if bind.startswith(("unix:", "fd://")):
        return
    host, port = split_bind(bind)
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # noqa: S104
        with socket.socket(found[0][0]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[0][4])
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandFailed(f"cannot listen on {bind}: {reason}; name another address with --bind") from None


def _environ(wanted: Wanted, url: str, admin: str) -> dict[str, str]:
    """Return the environment of gunicorn and its workers.

    :param admin: where the admin listener is, which no upstream may be; empty if there is none.
    """
    conf = wanted.gunicorn_conf
    kept = {name: value for name, value in os.environ.items() if name != "GWPROXY_ADMIN_TOKEN"}  # no plugin's business
    return {
        **kept,
        "GWPROXY_REDIS_URL": url,
        "GWPROXY_PREFIX": wanted.settings.prefix,
        "GWPROXY_STATE_DIR": str(wanted.settings.state_dir.resolve()),
        "GWPROXY_ADMIN_BIND": admin or "off",
        "GWPROXY_RUN_BIND": DEFAULT_BIND,
        "GWPROXY_RUN_CONF": str(conf.resolve()) if conf else "",
    }
