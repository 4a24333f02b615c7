"""What happens on one connection when the app fails, the client leaves, or the connection is taken over."""

import json
import socket

import pytest


def closed_iterables(gateway):
    return gateway.stats()["closed"]


@pytest.mark.parametrize("target", ["/raise", "/raise?what=exit", "/raise?what=gevent", "/raise?what=os", "/silent"])
def test_R30_what_an_app_raises_is_500_and_costs_one_request(client, gateway, target):
    reply = client.get(target)
    assert (reply.status, reply["Connection"]) == (500, "close")
    assert json.loads(reply.body) == {"error": "Internal Server Error"}
    assert client.closed()
    assert f"app_failed method=GET path='{target.partition('?')[0]}'" in gateway.log()
    with gateway.client() as another:
        assert another.get("/echo").status == 200


def test_500_for_head_has_no_body(client):
    assert client.get("/raise", method="HEAD").status == 500
    assert client.closed()


def test_U08_an_error_after_the_head_cuts_the_connection(counted):
    with counted.client() as client:
        reply = client.get("/raise_late")
        assert (reply.status, reply.body, reply.complete) == (200, b"some", False)
        assert client.closed()
    assert closed_iterables(counted) == 1


def test_U08_without_chunks_only_a_reset_says_so(client):
    client.send(b"GET /raise_late HTTP/1.0\r\n\r\n")
    client.until(b"some")
    with pytest.raises(ConnectionResetError):
        client.sock.recv(100)


def test_R13_a_short_body_cuts_the_connection(counted):
    with counted.client() as client:
        reply = client.get("/sized?declared=10&given=6")
        assert (len(reply.body), reply.complete) == (6, False)
        assert client.closed()
    assert closed_iterables(counted) == 1


def test_R13_a_long_body_is_cut_to_its_length(counted):
    with counted.client() as client:
        assert client.get("/sized?declared=4&given=6").body == b"xxxx"
        assert client.closed()
    assert closed_iterables(counted) == 1


def test_iterables_are_run_to_their_end_and_closed_once(counted):
    with counted.client() as client:
        assert client.get("/sized?declared=6&given=6").complete
    assert counted.stats()["pulled"] == 3
    assert closed_iterables(counted) == 1


def test_streaming_pieces_arrive_while_the_app_waits(counted):
    with counted.client() as client:
        client.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.head()["Content-Type"] == "text/event-stream"
        client.until(b"data: 1\n\n\r\n")
        counted.gate.touch()
        client.until(b"data: 2\n\n\r\n0\r\n\r\n")
        assert client.get("/echo").status == 200


def test_B11_a_client_that_leaves_ends_the_apps_iterable(counted, wait_until):
    with counted.client() as client:
        client.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.head().status == 200
    wait_until(lambda: closed_iterables(counted) == 1)
    assert "Traceback" not in counted.log()


def test_B12_the_app_can_see_that_the_client_left(counted, wait_until):
    with counted.client() as client:
        client.send(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: counted.stats()["gone"] == 1)


def test_B12_looking_consumes_nothing(client):
    client.send(b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    assert [client.reply().body for _ in range(3)] == [b"false"] * 3
    assert client.get("/echo").status == 200


def test_hijacked_connection_is_the_apps_until_its_iterable_ends(counted):
    with counted.client() as client:
        client.send(b"GET /hijack HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nearly")
        assert client.head().status == 101
        client.until(b"early")
        client.send(b"one")
        client.until(b"one")
        client.send(b"bye")
        client.until(b"bye")
        assert client.closed()
    assert closed_iterables(counted) == 1


def test_a_client_that_ends_its_sending_side_gets_its_response(client):
    client.send(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
    client.sock.shutdown(socket.SHUT_WR)
    assert client.reply().status == 200
    assert client.closed()


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"GET /echo HTTP/1.1\r\nHost: a\r\n"])
def test_a_client_that_leaves_within_a_head_is_no_error(counted, data):
    with counted.client() as client:
        client.send(data)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.closed()
    assert "Traceback" not in counted.log()
    assert "request_refused" not in counted.log()


def test_pipelining_does_not_keep_others_waiting(gateway):
    with gateway.client() as greedy, gateway.client() as modest:
        greedy.send(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n" * 200)
        assert modest.get("/echo").status == 200
        assert {greedy.reply().status for _ in range(200)} == {200}


def test_keepalive_0_closes_after_every_response(gunicorn):
    with gunicorn("--keep-alive", "0").client() as client:
        assert client.get("/echo")["Connection"] == "close"
        assert client.closed()


def test_a_plain_app_needs_nothing_of_ours(gunicorn):
    with gunicorn(app="probe_app:plain").client() as client:
        assert client.get("/").body == b"plain"
        assert client.get("/").body == b"plain"
