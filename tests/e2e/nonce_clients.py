"""Clients that know every byte they must get: what they ask of a gateway before nonce_service.py, and what they hold against it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.e2e.nonce_wire import PATIENCE, Ended, Got, Wire
from tests.e2e.nonces import content, difference

_SMUGGLED = b"GET /bare/smuggled-0000000?size=100 HTTP/1.1\r\nHost: gw.example\r\nX-Nonce: smuggled-0000000\r\n\r\n"

SIZES = (0, 1, 31, 32, 100, 1000, 4096, 16_384, 65_535, 65_537, 300_000, 1 << 20, 4 << 20)
SIZE_WEIGHTS = (6, 4, 4, 4, 20, 20, 15, 10, 4, 4, 4, 1.5, 0.4)
UPLOADS = SIZES[:-1]
UPLOAD_WEIGHTS = SIZE_WEIGHTS[:-1]

#: A fault of the upstream, and the statuses it may lead to. 502 of a reset before the head, unless the request is repeated.
FAULTS = {"reset": {502}, "cut": {200, 502}, "short": {200, 502}, "vanish": {200}, "close": {200}, "early": {413, 502}}
LIMITED = ("limited", "both")  # routes with a rate limit of LIMIT, counted by client or user
LIMIT = 1_000_000_000
REFUSALS = {401: b'{"error":"Invalid token"}', 502: b'{"error":"Bad Gateway"}', 503: b'{"error":"Service Unavailable"}'}


@dataclass
class Report:
    """What a run did, and what was wrong.

    :ivar done: counts by what was done.
    :ivar violations: one line each; the run is lost with the first.
    :ivar odd: answers that are no violation, but that nothing asked for, by route and status.
    """

    done: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    odd: Counter[str] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)  # of plain requests: when asked, seconds


@dataclass
class Mix:
    """How often what happens, as shares of 1."""

    faults: float = 0.06
    aborts: float = 0.05
    slow: float = 0.02
    pipelines: float = 0.15
    pause: float = 0.0  # seconds between two requests of a client, on average
    limits: bool = True  # whether what a rate limit has counted is known: not if the store is emptied


@dataclass
class Ask:
    """One request, and what its answer must be."""

    nonce: str
    route: str
    method: str = "GET"
    size: int = 0
    upload: int = 0
    upload_chunked: bool = False
    user: str | None = None  # whose token is sent; None: none, "": a bad one
    query: list[str] = field(default_factory=list)
    fault: str = ""
    began: float = 0.0

    def head(self, client: str, token: str | None) -> bytes:
        query = "&".join([f"size={self.size}", *self.query, *([f"fault={self.fault}"] if self.fault else [])])
        lines = [f"{self.method} /{self.route}/{self.nonce}?{query} HTTP/1.1", "Host: gw.example", f"X-Nonce: {self.nonce}"]
        lines += [f"X-Client: {client}", f"X-Size: {self.upload}", f"X-User-Id: forged-by-{client}"]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        if self.method == "POST":
            lines.append("Transfer-Encoding: chunked" if self.upload_chunked else f"Content-Length: {self.upload}")
        return "\r\n".join([*lines, "", ""]).encode()

    def body(self) -> bytes:
        if self.method != "POST":
            return b""
        # Refused before it is read, the body must not be taken for requests: their answers would have another nonce.
        data = content(self.nonce, self.upload) if self.user != "" else (_SMUGGLED * (self.upload // len(_SMUGGLED) + 1))[: self.upload]
        if not self.upload_chunked:
            return data
        cut = self.upload // 3 or 1
        pieces = [data[at : at + cut] for at in range(0, len(data), cut)]
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    def allowed(self) -> set[int]:
        if self.user == "":
            return {401}
        slow_store = {503} if self.route in LIMITED else set()
        if self.fault and not (self.route == "retried" and self.fault == "reset"):
            return FAULTS[self.fault] | slow_store
        return {200} | slow_store

    @property
    def is_plain(self) -> bool:
        """Whether its time says something about the gateway's."""
        return not self.fault and not self.upload and self.size <= 65_535 and not any(part.startswith("pause") for part in self.query)

    def __str__(self) -> str:
        return f"{self.method} /{self.route}/{self.nonce} size={self.size} upload={self.upload} user={self.user} {self.query} {self.fault}"


class Client:
    """One client with two users: asks at random, on one connection after another, and checks every byte.

    :param tokens: by user; with that of "", which is bad.
    :param routes: what is asked, equally often.
    """

    def __init__(self, number: int, port: int, tokens: dict[str, str], report: Report, mix: Mix, seed: int, routes: Sequence[str]) -> None:
        self.name = f"{number:04d}"
        self.report = report
        self._port, self._mix, self._routes = port, mix, routes
        self._tokens = tokens
        self._users = [user for user in tokens if user.startswith(self.name)]
        self._random = random.Random(f"{seed}-{number}")
        self._serial = 0
        self._taken: Counter[str] = Counter()  # from a rate limit, by route and counter: certainly
        self._perhaps: Counter[str] = Counter()  # and by requests whose fate is not known

    async def run(self, until: float) -> None:
        while time.monotonic() < until and len(self.report.violations) < 20:
            wire = Wire(self._port, slow=8192 if self._random.random() < self._mix.slow else 0)
            try:
                await wire.open()
                self.report.done["connections"] += 1
                self.report.done["slow"] += wire.slow > 0
                await self._converse(wire, until)
            except Ended as ended:
                if ended.args[0]:
                    self.violated(f"client {self.name}: the connection ended in a head: {ended.args[0][:200]!r}")
            except TimeoutError:
                self.violated(f"client {self.name}: no byte within {PATIENCE} s")
            except (ConnectionError, ValueError, KeyError, IndexError) as error:
                self.violated(f"client {self.name}: {type(error).__name__}: {error}")

    def violated(self, what: str) -> None:
        self.report.violations.append(what)

    async def _converse(self, wire: Wire, until: float) -> None:
        """Ask on one connection until it ends, or for a random number of turns."""
        for _ in range(self._random.randint(1, 40)):
            if time.monotonic() >= until:
                break
            if self._mix.pause:
                await asyncio.sleep(self._random.expovariate(1 / self._mix.pause))
            if self._random.random() < self._mix.aborts:
                await self._abort(wire)
                return
            many = self._random.random() < self._mix.pipelines
            asks = [self._draw(small=many) for _ in range(self._random.randint(2, 8) if many else 1)]
            self.report.done["pipelined"] += many * len(asks)
            if not await self._exchange(wire, asks):
                wire.close()
                return
        if stray := await wire.stray():
            self.violated(f"client {self.name}: bytes that nothing asked for: {stray!r}")
        wire.close(reset=self._random.random() < 0.1)

    async def _exchange(self, wire: Wire, asks: list[Ask]) -> bool:
        """Send all, then read all; False: the connection has ended."""
        began = time.monotonic()
        sending = asyncio.ensure_future(wire.send(b"".join(self._bytes(ask) for ask in asks)))
        try:
            for number, ask in enumerate(asks):
                try:
                    got = await wire.answer(ask.method)
                except Ended as ended:
                    self._unanswered(asks[number:], first=number == 0)
                    if ended.args[0]:
                        raise
                    return False
                self._check(ask, got)
                if len(asks) == 1 and ask.is_plain:
                    self.report.latencies.append((began, time.monotonic() - began))
                if got.cut or got.fields.get("connection") == "close":
                    self._unanswered(asks[number + 1 :], first=False)
                    return False
        finally:
            sending.cancel()
        return True

    def _unanswered(self, asks: list[Ask], *, first: bool) -> None:
        for ask in asks:
            self._perhaps[self._counter(ask)] += 1
        if first:
            self.report.odd["ended before an answer"] += 1

    def _bytes(self, ask: Ask) -> bytes:
        token = None if ask.user is None else self._tokens[ask.user]
        return ask.head(self.name, token) + ask.body()

    async def _abort(self, wire: Wire) -> None:
        """Leave in the middle: of sending, of waiting, or of reading."""
        ask = self._draw(small=False)
        if self._random.random() < 0.5:
            ask.query.append("pause=0.1")  # the rest of the upstream's answer comes when nobody waits for it any more
        data = self._bytes(ask)
        how = self._random.choice(["sending", "waiting", "reading"])
        self.report.done[f"aborts while {how}"] += 1
        self._perhaps[self._counter(ask)] += 1
        await wire.send(data[: self._random.randint(1, len(data))] if how == "sending" else data)
        if how == "reading":
            await wire.peek()
        wire.close(reset=self._random.random() < 0.5)

    def _draw(self, *, small: bool) -> Ask:
        """Make up the next request."""
        draw = self._random
        self._serial += 1
        route = draw.choice(self._routes)
        ask = Ask(f"{self.name}-{self._serial:07d}-{draw.randrange(4096):03x}", route)
        ask.size = draw.choices(SIZES, SIZE_WEIGHTS)[0] if not small else draw.choice(SIZES[:8])
        if route in ("user", "both"):
            ask.user = draw.choice(self._users) if draw.random() < 0.9 else ""
        if draw.random() < 0.3:
            ask.query.append("chunked=1")
        if draw.random() < 0.02:
            ask.query.append("pause=0.2")
        if draw.random() < 0.35:
            ask.method = "POST"
            ask.upload = draw.choices(UPLOADS, UPLOAD_WEIGHTS)[0] if not small else draw.choice(SIZES[:6])
            ask.upload_chunked = draw.random() < 0.4
        elif draw.random() < 0.05:
            ask.method = "HEAD"
        if draw.random() < self._mix.faults and ask.user != "" and route != "read":
            self._spoil(ask)
        return ask

    def _spoil(self, ask: Ask) -> None:
        faults = ["reset"] if ask.route == "retried" else sorted(FAULTS)
        ask.fault = self._random.choice(faults)
        self.report.done["faults"] += 1
        if ask.fault in ("cut", "short", "reset"):
            ask.method, ask.upload, ask.size = "GET", 0, max(ask.size, 1000)
        if ask.route == "retried":
            ask.query.append("once=1")

    # ---- judging

    def _check(self, ask: Ask, got: Got) -> None:
        """Hold an answer against its request."""
        done = self.report.done
        done[f"{got.status}"] += 1
        done["cut"] += got.cut
        if got.status not in ask.allowed():
            self.report.odd[f"{ask.method} {ask.route} {ask.fault or 'no fault'} {got.status}"] += 1
            if ask.method != "POST" and not ask.fault:
                self.violated(f"{ask}: refused ({got.status}), although nothing was wrong with it: what did the gateway read instead?")
        self._check_limit(ask, got)
        wrong = self._wrong_refusal(ask, got) if "x-nonce" not in got.fields else self._wrong_answer(ask, got)
        if wrong:
            self.violated(f"{ask}: status {got.status}: {wrong}")

    def _wrong_refusal(self, ask: Ask, got: Got) -> str | None:
        """An answer of the gateway's own: its text, and nothing else."""
        if ask.method == "HEAD" and got.status in REFUSALS:
            return None
        return None if got.body == REFUSALS.get(got.status) and not got.cut else f"not an answer to this: {got.body[:200]!r} {got.fields}"

    def _wrong_answer(self, ask: Ask, got: Got) -> str | None:
        self.report.done["answered"] += 1
        self.report.done["bytes"] += len(got.body)
        fields = got.fields
        if fields["x-nonce"] != ask.nonce:
            return f"it has the nonce {fields['x-nonce']}"
        if fields["x-seen-user"] != (ask.user or "-"):
            return f"the upstream saw the user {fields['x-seen-user']}"
        if "x-violation" in fields:
            return f"the upstream saw: {fields['x-violation']}"
        if got.status == 200 and fields["x-seen-size"] != str(ask.upload):
            return f"the upstream saw {fields['x-seen-size']} bytes"
        if ask.route == "read" and fields.get("x-read") not in ("0" if ask.method == "HEAD" else str(ask.size), "too long"):
            return f"a plugin read {fields.get('x-read')} bytes"
        if ask.method == "HEAD":
            return None
        if got.cut and ask.fault not in ("cut", "short"):
            return f"cut after {len(got.body)} of {ask.size} bytes"
        if not got.cut and ask.fault in ("cut", "short"):
            return "complete, although the upstream's was not"
        return difference(got.body, ask.nonce, ask.size, cut=got.cut)

    def _counter(self, ask: Ask) -> str:
        return f"{ask.route}:{ask.user or self.name}"

    def _check_limit(self, ask: Ask, got: Got) -> None:
        """What a counter that only this client uses has left says whether the reply of Redis was for this request."""
        if not self._mix.limits or ask.route not in LIMITED or ask.user == "":
            return
        counter = self._counter(ask)
        if "x-ratelimit-remaining" not in got.fields:  # the store was too slow, and the request refused
            self._perhaps[counter] += 1
            return
        used = LIMIT - int(got.fields["x-ratelimit-remaining"])
        least, most = self._taken[counter] + 1, self._taken[counter] + 1 + self._perhaps[counter]
        if not least <= used <= most:
            self.violated(f"{ask}: its rate limit has counted {used}, not {least} to {most}")
        self._perhaps[counter] -= used - least
        self._taken[counter] = used
        self.report.done["limits checked"] += 1
