"""What DNS says of the targets with ``resolve``: looked up beside requests, again by TTL, and kept when nobody answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import gevent

from gwproxy.dataplane.target import service_of
from gwproxy.http.addresses import is_forbidden
from gwproxy.model import DNS, Target
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.names")

MOST = 1000  # addresses of one target that are used

Kind = Literal["A", "AAAA", "SRV"]
_KINDS: dict[str, tuple[Kind, ...]] = {"a": ("A",), "aaaa": ("AAAA",), "all": ("A", "AAAA"), "srv": ("A", "AAAA")}


class Question(NamedTuple):
    """What is asked, and whom."""

    name: str
    kind: Kind
    servers: tuple[str, ...]
    timeout: float


class Record(NamedTuple):
    """One record of an answer: an address, or of SRV the name of a server, with what else it says."""

    host: str
    port: int = 0
    weight: int = 0
    priority: int = 0


class Answer(NamedTuple):
    """What was answered; no record: that there is none.

    :ivar ttl: seconds for which it may be used.
    """

    records: tuple[Record, ...]
    ttl: float


class Address(NamedTuple):
    """A target that DNS has told.

    :ivar tier: 0 for those of a service's lowest priority, 1 for the next, and so on.
    """

    url: str
    weight: int
    tier: int


class LookupFailed(Exception):
    """There was no answer: not even that there is none."""


class Known:
    """What is known of a question.

    :ivar records: of the last answer; None: there was none yet.
    :ivar due: when to ask, by the clock of :class:`Names`.
    """

    __slots__ = ("due", "failing", "limits", "looking", "records")

    def __init__(self, due: float, records: tuple[Record, ...] | None) -> None:
        self.due = due
        self.records = records
        self.looking = self.failing = False
        self.limits = (0.0, 0.0)


class Names:
    """The answers of DNS of this worker. They live beside snapshots: a change of the configuration asks nobody anew.

    :param look_up: asks; raises :class:`LookupFailed`. None: dnspython does.
    :param saved: answers of former processes, by :meth:`shown`: better than none while the servers of DNS are away.

    :ivar version: grows with each answer that differs from the one before.
    """

    def __init__(
        self,
        tally: Tally,
        look_up: Callable[[Question], Answer] | None = None,
        clock: Callable[[], float] = time.monotonic,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self._tally = tally
        self._look_up = look_up
        self._clock = clock
        self.saved: Mapping[str, Any] = saved or {}
        self._known: dict[Question, Known] = {}
        self._asked: set[Question] = set()
        self._missing: list[Known] = []
        self.version = 0

    def settled(self, target: Target, dns: DNS) -> bool:
        """Whether a target has addresses, or whoever was asked for them has failed to answer."""
        self._missing.clear()
        return self._found(target, dns) is not None or all(known.failing for known in self._missing)

    def addresses(self, target: Target, dns: DNS) -> tuple[Address, ...] | None:
        """Return what a target's name stands for now; None: nobody has answered yet. Whatever is missing will be looked up.

        No more than :data:`MOST` are returned, and none that is link-local.
        """
        self._missing.clear()
        found = self._found(target, dns)
        if found is None:
            return None
        allowed = [address for address, host in found if not is_forbidden(host)]
        if len(allowed) < len(found):
            self._tally.add("addresses_forbidden", count=len(found) - len(allowed))
        if len(allowed) > MOST:
            self._tally.add("addresses_dropped", count=len(allowed) - MOST)
        return tuple(dict.fromkeys(allowed[:MOST]))

    def _found(self, target: Target, dns: DNS) -> list[tuple[Address, str]] | None:
        if target.resolve != "srv":
            hosts = self._hosts(service_of(target.url).hostname, target.resolve or "a", dns)
            port = service_of(target.url).port
            return None if hosts is None else [(Address(_with(target.url, host, port), target.weight, 0), host) for host in hosts]
        servers = self._records(_host_of(target.url), "SRV", dns)
        if servers is None:
            return None
        tiers = sorted({server.priority for server in servers})
        found, known = [], not servers
        for server in servers:
            hosts = self._hosts(server.host, "srv", dns)
            known = known or hosts is not None
            for host in hosts or ():
                weight = max(1, server.weight) * target.weight  # 0 is the least there is (RFC 2782)
                found.append((Address(_with(target.url, host, server.port), weight, tiers.index(server.priority)), host))
        return found if known else None

    def _hosts(self, name: str, resolve: str, dns: DNS) -> list[str] | None:
        """Return the addresses of a name, of all the kinds that are asked for; None: no kind is known."""
        answers = [self._records(name, kind, dns) for kind in _KINDS[resolve]]
        if all(records is None for records in answers):
            return None
        if not any(answers) and any(records is None for records in answers):
            return None  # of the other kind there may be some
        return [record.host for records in answers for record in records or ()]

    def _records(self, name: str, kind: Kind, dns: DNS) -> tuple[Record, ...] | None:
        question = Question(name.lower(), kind, dns.servers, dns.timeout)
        self._asked.add(question)
        known = self._known.get(question)
        if known is None:
            known = self._known[question] = Known(self._clock(), _loaded(self.saved.get(_key(question))))
        known.limits = dns.min_ttl, dns.max_ttl
        if known.records is None:
            self._missing.append(known)
        return known.records

    def keep(self, wanted: Iterable[tuple[Target, DNS]]) -> None:
        """Forget every question that is not asked for these targets."""
        self._asked.clear()
        for target, dns in wanted:
            self._found(target, dns)
        self._known = {question: known for question, known in self._known.items() if question in self._asked}

    def look(self) -> list[gevent.Greenlet]:
        """Begin the lookups that are due; return them."""
        now = self._clock()
        due = [(question, known) for question, known in self._known.items() if now >= known.due and not known.looking]
        for _, known in due:
            known.looking = True
        return [gevent.spawn(self._ask, question, known) for question, known in due]

    def _ask(self, question: Question, known: Known) -> None:
        try:
            answer = (self._look_up or _dnspython())(question)
        except LookupFailed as error:
            self._failed(question, known, str(error))
        except Exception as error:  # of a lookup, not of a request: the last answer is kept all the same
            log.exception("lookup_broken name=%s kind=%s", question.name, question.kind)
            self._failed(question, known, type(error).__name__)
        else:
            self._told(question, known, answer)
        finally:
            known.looking = False

    def _failed(self, question: Question, known: Known, why: str) -> None:
        known.due = self._clock() + max(1.0, question.timeout)
        self._tally.add("lookups_failed")
        if not known.failing:
            kept = "the last answer" if known.records is not None else "nothing"
            log.warning("lookup_failed name=%s kind=%s kept=%s why=%s", question.name, question.kind, kept, why)
        known.failing = True

    def _told(self, question: Question, known: Known, answer: Answer) -> None:
        least, most = known.limits
        known.due = self._clock() + min(max(answer.ttl, least), most)
        if known.failing:
            log.warning("lookup_recovered name=%s kind=%s", question.name, question.kind)
        known.failing = False
        if answer.records != known.records:
            hosts = ",".join(record.host for record in answer.records[:20])
            log.info("name_changed name=%s kind=%s ttl=%.0f hosts=%s", question.name, question.kind, answer.ttl, hosts)
            known.records = answer.records
            self.version += 1

    def shown(self) -> dict[str, Any]:
        """Return the answers for another process: what it takes as ``saved``."""
        return {
            _key(question): [list(record) for record in known.records]
            for question, known in self._known.items()
            if known.records is not None
        }


def _dnspython() -> Callable[[Question], Answer]:
    from gwproxy.dataplane.resolver import look_up  # PERF: 70 ms, and most gateways have no target with ``resolve``

    return look_up


def _host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def _with(url: str, host: str, port: int | None) -> str:
    """Return ``url`` with an address instead of its name."""
    parts = urlsplit(url)
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{parts.path}"


def _key(question: Question) -> str:
    return f"{question.kind} {question.name} {','.join(question.servers)}"


def _loaded(records: Any) -> tuple[Record, ...] | None:
    """Return what :meth:`Names.shown` has written; None if it is something else."""
    try:
        return tuple(Record(str(host), int(port), int(weight), int(priority)) for host, port, weight, priority in records)
    except (TypeError, ValueError):
        return None
