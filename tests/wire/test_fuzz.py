"""The corpus, mutated. Whatever a client sends, nothing crashes, nobody gets a 5xx for it, and every request has one answer; whatever
an upstream answers, a client gets one response, whole or visibly cut."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import httptools
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.e2e.conftest import GatewayProcess
from tests.wire import notation
from tests.wire.cases import Step, cases, sections
from tests.wire.conftest import ENVIRONMENTS, FAILURES, TRANSPORTS
from tests.wire.strict import Message, SayingUpstream, Stream, StrictUpstream, read_response

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(0)]

#: How long each environment is fuzzed from the client's side; half of it from the upstream's. README.md tells how to run it for longer.
SECONDS = float(os.environ.get("WIRE_FUZZ_SECONDS", "7"))

BATCH = 300
LONGEST = 4096  # bytes of a seed
ALLOWED = {b"200", b"400", b"401", b"404", b"405", b"408", b"413", b"414", b"417", b"431", b"501"}
INSERTED = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"_",
    b"%",
    b"\x0b",
    b"\x85",
    b"\xff",
    b"0\r\n\r\n",
]
FIELDS = [
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n",
    b"Connection: Content-Length, Transfer-Encoding\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: evil.example\r\n",
    b" folded\r\n",
]


def requests() -> list[bytes]:
    """What clients of the corpus send, faults and all."""
    return _seeds(case.send for section in sections() for case in cases(section))


def responses() -> list[bytes]:
    """What its upstreams send."""
    found = [exchange.sends for section in sections() for case in cases(section) for exchange in case.upstream]
    return _seeds([*found, ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok",)])


def _seeds(scripts: Iterable[tuple[Step, ...]]) -> list[bytes]:
    names = {"upstream": b"gw.example", "added": b""}
    found = set()
    for steps in scripts:
        texts = [step for step in steps if isinstance(step, str) and "HTTP/" in step and len(step) < LONGEST]
        found.add(b"".join(notation.decode(text, names) for text in texts))
    return sorted(data for data in found if 0 < len(data) < LONGEST)


@dataclass(frozen=True)
class Mutation:
    """One change. ``at`` and ``size`` are fractions of what there is, so that shrinking one does not change what the others mean."""

    kind: str
    at: float
    size: float
    data: bytes

    def apply(self, sent: bytes) -> bytes:
        start = int(self.at * len(sent))
        end = min(len(sent), start + 1 + int(self.size * 40))
        match self.kind:
            case "delete":
                return sent[:start] + sent[end:]
            case "repeat":
                return sent[:end] + sent[start:end] + sent[end:]
            case "insert":
                return sent[:start] + self.data + sent[start:]
            case "flip" if start < len(sent):
                return sent[:start] + bytes((sent[start] ^ (1 << int(self.size * 7.99)),)) + sent[start + 1 :]
            case "splice":
                return sent[:start] + self.data[int(self.size * len(self.data)) :]
            case "field":
                line = sent.find(b"\r\n", start) + 2
                return sent[:line] + self.data + sent[line:]
            case "pipeline":
                return sent + self.data
        return sent


def mutations(corpus: list[bytes]) -> st.SearchStrategy[list[Mutation]]:
    """Up to five changes."""
    whole = st.sampled_from(corpus)
    data = {"insert": st.sampled_from(INSERTED), "field": st.sampled_from(FIELDS), "splice": whole, "pipeline": whole}
    fraction = st.floats(0, 1, exclude_max=True)
    kinds = st.sampled_from(["delete", "repeat", "insert", "flip", "splice", "field", "pipeline"])
    one = kinds.flatmap(lambda kind: st.builds(Mutation, st.just(kind), fraction, fraction, data.get(kind, st.just(b""))))
    return st.lists(one, max_size=5)


@dataclass
class Fuzzed:
    """A gateway with an upstream that takes nothing but what is plainly HTTP."""

    gateway: GatewayProcess
    upstream: StrictUpstream
    saying: SayingUpstream
    checked: set[int] = field(default_factory=set)

    def send(self, pieces: list[bytes]) -> list[Message]:
        """Send ``pieces`` one by one, and nothing more; return every final answer."""
        with socket.create_connection(("127.0.0.1", self.gateway.port), 20) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(ConnectionError):
                for number, piece in enumerate(pieces):
                    if number:
                        time.sleep(0.001)
                    sock.sendall(piece)
            with contextlib.suppress(OSError):  # reset already: that it is not connected is no ConnectionError
                sock.shutdown(socket.SHUT_WR)
            stream = Stream(lambda: sock.recv(1 << 16))
            answers = []
            with contextlib.suppress(ConnectionError):
                while (answer := read_response(stream)) is not None:
                    if answer.first[0] != b"100":
                        answers.append(answer)
        return answers

    def ask(self, answer: bytes) -> Message | None:
        """Send a request whose upstream says ``answer`` and ends; return the response, None if it was cut."""
        self.saying.answer, before = answer, self.saying.asked
        with socket.create_connection(("127.0.0.1", self.gateway.port), 20) as sock:
            sock.sendall(b"GET /says HTTP/1.1\r\nHost: gw.example\r\nConnection: close\r\n\r\n")
            stream = Stream(lambda: sock.recv(1 << 16))
            try:
                response = read_response(stream, b"GET")
                assert read_response(stream, b"GET") is None, "two answers for one request"
            except EOFError:
                return None
        assert self.saying.asked == before + 1
        return response

    def check(self, sent: bytes, answers: list[Message]) -> None:
        """Check what the client got against what it sent and what the upstream saw of it."""
        broken, self.upstream.broken = self.upstream.broken, []
        new = set(self.upstream.seen) - self.checked
        self.checked |= new  # before anything can fail: what is tried next starts anew
        assert not broken
        assert {answer.first[0] for answer in answers} <= ALLOWED
        numbers = [int(number) for answer in answers for number in answer.all(b"x-number")]
        assert sorted(numbers) == sorted(new), "a request without its answer, or an answer too many"
        assert numbers == sorted(numbers), "answers out of order"
        refused = [position for position, answer in enumerate(answers) if answer.all(b"connection") == [b"close"]]
        assert refused in ([], [len(answers) - 1]), "an answer after the last one"
        for (method, body), answer in zip(understood(sent), answers, strict=False):
            for number in answer.all(b"x-number"):
                request = self.upstream.seen[int(number)]
                assert (request.first[0], request.body) == (method, body), "another reader finds another request"


def answered(said: bytes) -> bytes | None:
    """Return the body of the first final response that another parser finds; None if it finds none that is complete."""
    found: list[bytes] = []
    body: list[bytes] = []

    class Reader:
        on_body = body.append

        def on_message_complete(self) -> None:
            if parser.get_status_code() >= 200:
                found.append(b"".join(body))
            body.clear()

    parser = httptools.HttpResponseParser(Reader())
    with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        parser.feed_data(said)
    return found[0] if found else None


def understood(sent: bytes) -> list[tuple[bytes, bytes]]:
    """Return method and body of every complete request that another parser finds, up to what it does not understand."""
    found: list[tuple[bytes, bytes]] = []
    body: list[bytes] = []

    class Reader:
        on_body = body.append

        def on_message_complete(self) -> None:
            found.append((parser.get_method(), b"".join(body)))
            body.clear()

    parser = httptools.HttpRequestParser(Reader())
    with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        parser.feed_data(sent)
    return found


@pytest.fixture(scope="module")
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    upstream, saying = StrictUpstream(), SayingUpstream()
    url = f"http://{upstream.authority}"
    jwt = {"name": "jwt_auth", "config": {"secret": "a-secret-of-more-than-32-bytes-for-tests"}}
    routes = [
        {"path": "/", "upstream": url},
        {"path": "/small", "upstream": url, "max_body": 10},
        {"path": "/private", "upstream": url, "plugins": [jwt]},
        {"path": "/stripped", "upstream": f"{url}/base", "strip_path": True},
        {"path": "~^/cut/v[0-9]+", "upstream": url, "strip_path": True},
        {"path": "/admin", "upstream": f"{url}/internal"},
        {"path": "/says", "upstream": f"http://{saying.authority}"},
    ]
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "routes.json").write_text(json.dumps(routes))
    env = {"GWPROXY_CONFIG": str(folder / "routes.json"), "GWPROXY_LOG_LEVEL": "debug", **ENVIRONMENTS[request.param]}
    gateway = GatewayProcess(folder, env, workers=2).ready()
    fuzzed = Fuzzed(gateway, upstream, saying)
    workers = gateway.worker_pids()
    yield fuzzed
    assert gateway.worker_pids() == workers, gateway.output()[-5000:]
    gateway.process.stop()
    said = [word for word in FAILURES if word in gateway.output()]
    assert not said, gateway.output()[-5000:]
    upstream.close()
    saying.close()


@pytest.mark.parametrize("fuzzed", ENVIRONMENTS, indirect=True)
def test_whatever_a_client_sends(fuzzed: Fuzzed) -> None:
    corpus = requests()
    ends = time.monotonic() + SECONDS
    statuses: Counter[bytes] = Counter()

    @settings(max_examples=BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(corpus), mutations(corpus), st.lists(st.floats(0, 1), max_size=3))
    def attempt(sent: bytes, changes: list[Mutation], cuts: list[float]) -> None:
        for change in changes:
            sent = change.apply(sent)
        note("\n" + notation.encode(sent))
        at = sorted(int(cut * len(sent)) for cut in cuts)
        answers = fuzzed.send([sent[start:end] for start, end in zip([0, *at], [*at, len(sent)], strict=True)])
        statuses.update(answer.first[0] for answer in answers)
        fuzzed.check(sent, answers)

    while time.monotonic() < ends:
        attempt()
    print(f"\n{len(fuzzed.upstream.seen)} requests passed; answers: {sorted(statuses.items())}")
    assert statuses[b"200"] > BATCH / 10, "hardly anything was understood: this proves nothing"
    assert statuses[b"400"] > BATCH / 10, "hardly anything was refused: this proves nothing"


@pytest.mark.parametrize("fuzzed", TRANSPORTS, indirect=True)
def test_whatever_an_upstream_answers(fuzzed: Fuzzed) -> None:
    corpus = responses()
    ends = time.monotonic() + SECONDS / 2
    outcomes: Counter[str] = Counter()

    @settings(max_examples=BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(corpus), mutations(corpus))
    def attempt(said: bytes, changes: list[Mutation]) -> None:
        for change in changes:
            said = change.apply(said)
        note("\n" + notation.encode(said))
        response = fuzzed.ask(said)
        outcomes["cut" if response is None else response.first[0].decode()] += 1
        if response is None or response.body == b'{"error":"Bad Gateway"}':
            return
        body = answered(said)
        assert body == response.body or (body is None and said.endswith(response.body)), "a part, or more, passed for the whole"

    batches = 0  # on a slow machine there is time for one only, of which some 15 to 30 are 200
    while time.monotonic() < ends or (outcomes["200"] <= BATCH / 10 and batches < 10):
        attempt()
        batches += 1
    print(f"\noutcomes: {sorted(outcomes.items())}")
    assert outcomes["200"] > BATCH / 10, "hardly anything was understood: this proves nothing"
    assert outcomes["502"] > BATCH / 10, "hardly anything was refused: this proves nothing"
