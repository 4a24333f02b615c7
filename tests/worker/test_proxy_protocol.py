"""PROXY protocol v2: the header alone, and in front of a gunicorn (R43)."""

import io
import json
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwproxy.settings import Settings
from gwproxy.worker.proxy_protocol import SIGNATURE, is_from, plain_address, read_header

REQUEST = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"


def header(command=0x21, family=0x11, rest=b"", signature=SIGNATURE):
    return signature + struct.pack(">BBH", command, family, len(rest)) + rest


def tcp4(source="192.0.2.7", port=4711, tlvs=b""):
    addresses = socket.inet_aton(source) + socket.inet_aton("10.0.0.1")
    return header(rest=addresses + struct.pack(">HH", port, 443) + tlvs)


def tcp6(source="2001:db8::7", port=4711):
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "::1")
    return header(family=0x21, rest=addresses + struct.pack(">HH", port, 443))


def parse(data):
    stream = io.BytesIO(data)
    found = read_header(stream.read)
    return found, stream.read()


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (tcp4(), ("192.0.2.7", 4711)),
        (tcp4(tlvs=b"\x04\x00\x03abc"), ("192.0.2.7", 4711)),
        (tcp6(), ("2001:db8::7", 4711)),
        (tcp6("::ffff:192.0.2.7"), ("192.0.2.7", 4711)),
        (header(0x20, 0x00), None),
        (header(0x20, 0x11, b"x" * 12), None),
    ],
)
def test_R43_header_and_not_one_byte_more(data, source):
    assert parse(data + REQUEST) == (source, REQUEST)


@pytest.mark.parametrize(
    "data",
    [
        REQUEST,
        header(signature=b"\r\n\r\n\0\r\nQUIX\n"),
        header(0x11, rest=b"x" * 12),
        header(0x22, rest=b"x" * 12),
        header(0x21, 0x00),
        header(0x21, 0x12, b"x" * 12),
        header(0x21, 0x31, b"x" * 216),
        header(0x21, 0x11, b"x" * 11),
        header(0x21, 0x21, b"x" * 35),
        tcp4(tlvs=b"x" * 3000),
    ],
)
def test_R43_no_header(data):
    with pytest.raises(ValueError, match=r"PROXY|TCP"):
        parse(data)


@given(st.binary(min_size=20, max_size=80), st.booleans())
def test_a_header_is_an_address_none_or_refused(data, signed):
    try:
        found, _ = parse((SIGNATURE if signed else b"") + data + b"\0" * 2048)
    except ValueError:
        return
    assert found is None or socket.getaddrinfo(found[0], found[1], flags=socket.AI_NUMERICHOST)


def test_is_from():
    networks = Settings.from_environment({"GWPROXY_PROXY_FROM": "10.0.0.0/8,2001:db8::/32"}).proxy_from
    assert all(is_from(address, networks) for address in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"))
    assert not any(is_from(address, networks) for address in ("11.0.0.1", "::ffff:11.0.0.1", "2001:db9::1", "", "/run/x.sock"))


def test_plain_address():
    assert plain_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert [plain_address(text) for text in ("::ffff:0:1", "192.0.2.1", "::1")] == ["::ffff:0:1", "192.0.2.1", "::1"]


@pytest.fixture(scope="module")
def gateway(gunicorn):
    return gunicorn(GWPROXY_PROXY_PROTOCOL="v2", GWPROXY_PROXY_FROM="127.0.0.0/8", GWPROXY_HEADER_TIMEOUT="0.5")


@pytest.mark.parametrize(("data", "source"), [(tcp4(), ("192.0.2.7", "4711")), (tcp6(), ("2001:db8::7", "4711"))])
def test_R43_the_client_is_who_the_balancer_says_for_the_whole_connection(client, data, source):
    client.send(data)
    for _ in range(2):
        environ = json.loads(client.send(REQUEST).reply().body)
        assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == source


def test_R43_local_is_the_balancer_itself(client):
    environ = json.loads(client.send(header(0x20, 0x00) + REQUEST).reply().body)
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("127.0.0.1", str(client.sock.getsockname()[1]))


@pytest.mark.parametrize(
    "data", [REQUEST, b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n" + REQUEST, header(0x21, 0x00) + REQUEST, b"", SIGNATURE]
)
def test_R43_without_the_header_the_connection_is_closed(client, gateway, data):
    assert client.send(data).closed()
    assert "proxy_header_refused client=127.0.0.1 status=0" in gateway.log()


def test_R43_a_second_header_is_no_request(client):
    assert client.send(tcp4() + REQUEST).reply().status == 200
    assert client.send(tcp4("203.0.113.9") + REQUEST).reply().status == 400


def test_R43_only_the_balancer_may_speak(gunicorn):
    gateway = gunicorn(GWPROXY_PROXY_PROTOCOL="v2", GWPROXY_PROXY_FROM="192.0.2.0/24")
    with gateway.client() as client:
        assert client.send(tcp4() + REQUEST).closed()
    assert "peer not in GWPROXY_PROXY_FROM" in gateway.log()


def test_off_means_the_header_is_garbage(gunicorn):
    with gunicorn().client() as client:
        assert client.send(tcp4() + REQUEST).reply().status == 400
