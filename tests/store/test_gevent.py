"""The same under gevent, as in a worker: in a process of its own, since patching is for good."""

from __future__ import annotations

import subprocess
import sys

from tests.store.greenlets import run


def test_L05_greenlets_share_round_trips_and_the_limit_is_exact(server, client):
    client.config_resetstat()
    output = run(
        server,
        """
        jobs = [gevent.spawn(lambda: [store.take("k", limit=300, window=600).allowed for _ in range(10)]) for _ in range(100)]
        print(sum(sum(job.get()) for job in jobs))
        print(len(store.client.connection_pool._connections) <= 20)
        """,
    )
    assert output == ["300", "True"]


def test_Q05_a_frozen_store_stops_neither_requests_nor_the_rest_of_the_worker(server):
    output = run(
        server,
        """
        store.take("k", limit=1000, window=60)
        ticks = []
        def tick():
            while True:
                ticks.append(time.monotonic())
                gevent.sleep(0.01)
        gevent.spawn(tick)
        def request(n):
            gevent.sleep(n * 0.002)
            began = time.monotonic()
            try:
                store.take("k", limit=1000, window=60)
            except StoreUnavailable:
                return time.monotonic() - began
        os.kill(pid, signal.SIGSTOP)
        try:
            took = [job.get() for job in [gevent.spawn(request, n) for n in range(200)]]
        finally:
            os.kill(pid, signal.SIGCONT)
        print(max(took) < 0.6, None in took)
        print(max(b - a for a, b in zip(ticks, ticks[1:])) < 0.3)
        gevent.sleep(1.1)
        print(1000 - store.take("k", limit=1000, window=60).remaining < 60)  # what nobody waited for was not even sent
        """,
    )
    assert output == ["True False", "True", "True"]


def test_a_call_ends_in_its_time_also_where_sockets_have_no_timeout(server):
    """A name that is resolved slowly; a reply that comes byte by byte, each in time."""
    output = run(
        server,
        """
        import socket
        from gevent.server import StreamServer

        def took(url):
            slow, began = RedisStore.from_url(url), time.monotonic()
            try:
                slow.claim("k", ttl=1)
            except StoreUnavailable as error:
                return time.monotonic() - began < 1, str(error)

        def drip(sock, address):
            for byte in b"+" + b"x" * 100:
                sock.sendall(bytes([byte]))
                gevent.sleep(0.05)

        listener = StreamServer(("127.0.0.1", 0), drip)
        listener.start()
        print(took(f"redis://127.0.0.1:{listener.server_port}"))
        resolve = socket.getaddrinfo
        socket.getaddrinfo = lambda *args: gevent.sleep(5) or resolve(*args)
        print(took("redis://localhost"))
        """,
    )
    assert output == ["(True, 'the store did not answer in its time')"] * 2


def test_Q06_greenlets_killed_in_the_middle_mix_up_nobodys_replies(server):
    output = run(
        server,
        """
        import random
        from gwproxy.errors import BudgetExceeded
        random.seed(7)
        wrong, killed, right = [], [], []
        def ask(n):
            for i in range(40):
                name = f"{n}/{i}"
                try:
                    store.put(name, name.encode(), ttl=60)
                    got = store.get(name)
                except StoreUnavailable:
                    continue
                except BudgetExceeded:
                    killed.append(n)
                    return
                (right if got == name.encode() else wrong).append((name, got))
        jobs = [gevent.spawn(ask, n) for n in range(60)]
        while not all(job.ready() for job in jobs):
            gevent.sleep(0.001)
            if len(killed) < 20:
                random.choice(jobs).kill(BudgetExceeded, block=False)
        print(wrong, len(right) > 100, len(killed) >= 10, store._trips._pipeline._gathered)
        print(store.get("nothing"))
        """,
    )
    assert output == ["[] True True []", "None"]


def test_logs_and_hints_work_in_greenlets(server, client):
    output = run(
        server,
        """
        from gevent.event import Event
        stop = Event()
        writer = gevent.spawn(store.logs.run, stop)
        for n in range(1000):
            store.log("access_log", b"%d" % n)
        configuration = ConfigurationStore(connect(url, timeout=2.0))
        heard = configuration.subscribe()
        print(heard.wait(2.0))
        gevent.spawn_later(0.05, configuration.publish, b"[]", actor="me")
        print(heard.wait(10.0))
        with gevent.Timeout(10):
            while store.logs.pending:
                gevent.sleep(0.01)
        stop.set()
        writer.join(5)
        print(writer.ready(), store.dropped)
        heard.close()
        """,
    )
    assert output == ["True", "True", "True 0"]
    assert client.llen("gw:access_log") == 1000


def test_importing_and_constructing_start_nothing():
    code = """
import threading
import gwproxy.store.shared, gwproxy.store.configuration, gwproxy.store.embedded
from gwproxy.store.shared import RedisStore
store = RedisStore.from_url("redis://192.0.2.1")
import sys
print(threading.active_count(), "gevent" in sys.modules, store.logs.pending)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["1", "False", "0"], done.stderr
