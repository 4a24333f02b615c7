"""Lookups in DNS, by dnspython: in a worker its sockets are gevent's, so that nobody waits but who asks."""

from __future__ import annotations

import time
from typing import Any

import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver

from gwproxy.dataplane.names import Answer, LookupFailed, Question, Record

_NEGATIVE = 5.0  # seconds an answer that there is nothing is taken for


def look_up(question: Question) -> Answer:
    """Ask DNS; a truncated answer is asked for again over TCP, aliases are followed, a short name gets the search list.

    :raises LookupFailed: there was no answer in time, or one that says nothing about the name (SERVFAIL, REFUSED).
    """
    try:
        answer = _resolver(question).resolve(question.name, question.kind, search=True, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return Answer((), _NEGATIVE)
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise LookupFailed(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]) from error
    if answer.rrset is None:
        return Answer((), _NEGATIVE)
    records = tuple(sorted({_record(rdata) for rdata in answer.rrset}))  # sorted: servers shuffle them
    return Answer(records, max(0.0, answer.expiration - time.time()))


def _resolver(question: Question) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=not question.servers)
    if question.servers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*_address(server)) for server in question.servers]
    resolver.lifetime = question.timeout
    resolver.timeout = question.timeout / 2 if len(resolver.nameservers) > 1 else question.timeout
    resolver.cache = None
    return resolver


def _address(server: str) -> tuple[str, int]:
    host, _, port = server[1:].partition("]") if server.startswith("[") else server.partition(":")
    return host, int(port.removeprefix(":") or 53)


def _record(rdata: Any) -> Record:
    if rdata.rdtype == dns.rdatatype.SRV:
        return Record(str(rdata.target).rstrip("."), rdata.port, rdata.weight, rdata.priority)
    return Record(str(rdata.address))
