"""What goes on to the upstream and what comes back: rows H01 to H12, rules R19 and R20."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwproxy.errors import BadRequest
from gwproxy.http import forwarding
from gwproxy.http.forwarding import (
    Stripped,
    client_address,
    client_scheme,
    entries_of,
    forwarding_fields,
    is_trusted,
    request_id,
    without_nominated,
)
from gwproxy.http.headers import Headers, field

_TRUSTED = (ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"))
_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def strip_request(fields: list[tuple[str, str]]) -> Stripped:
    return forwarding.strip_request(entries_of(fields))


def _kept(*fields: tuple[str, str]) -> list[tuple[str, str]]:
    return strip_request(list(fields)).headers.items()


def test_what_is_end_to_end_is_kept_in_order_and_as_spelled() -> None:
    fields = [("user-AGENT", "x"), ("X-M", "1"), ("Accept", "*/*"), ("x-m", "2"), ("Authorization", "Bearer \xe9"), ("X-Userless", "1")]
    assert _kept(*fields) == fields


def test_H03_H04_P22_hop_by_hop_fields_are_removed() -> None:
    names = "Connection Keep-Alive Proxy-Connection Proxy-Authorization Proxy-Authenticate TE Trailer Transfer-Encoding Upgrade"
    names += " HTTP2-Settings Expect Proxy Host Content-Length"
    assert _kept(*((name.upper(), "x") for name in names.split()), ("A", "1")) == [("A", "1")]


@pytest.mark.parametrize("connection", [["close, X-Secret"], ["x-secret"], ["close", " X-SECRET\t,"], ["keep-alive,X-Secret,keep-alive"]])
def test_H01_fields_that_connection_names_are_removed(connection: list[str]) -> None:
    fields = [("X-Secret", "1"), *(("Connection", value) for value in connection), ("x-secret", "2"), ("A", "1")]
    assert _kept(*fields) == [("A", "1")]


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "Content-Type", "Cache-Control", "Origin", "X-Request-ID", "traceparent"])
def test_H02_end_to_end_fields_are_not_removed_by_connection(name: str) -> None:
    assert _kept((name, _TRACE), ("Connection", f"close, {name}")) == [(name, _TRACE)]


def test_H02_connection_hides_neither_host_nor_where_a_request_came_from() -> None:
    stripped = strip_request([("Host", "a.com"), ("X-Forwarded-For", "1.1.1.1"), ("Connection", "Host, X-Forwarded-For, Forwarded")])
    assert stripped.host == "a.com"
    assert stripped.forwarded.items() == [("X-Forwarded-For", "1.1.1.1")]


@pytest.mark.parametrize("name", ["X-User-Id", "x-consumer", "X-CONSUMER-Groups", "X-Consumer-Username", "X-User-Email"])
def test_H08_identity_from_clients_is_removed(name: str) -> None:
    assert _kept((name, "root"), ("A", "1")) == [("A", "1")]


@pytest.mark.parametrize("name", ["X_User_Id", "Content_Length", "X-Consumer_Groups", "a_b"])
def test_H09_names_with_underscores_are_removed(name: str) -> None:
    assert _kept((name, "root"), ("A", "1")) == [("A", "1")]


def test_H05_forwarding_fields_are_put_aside() -> None:
    fields = [
        ("X-Forwarded-For", "1.1.1.1"),
        ("x-forwarded-prefix", "/a"),
        ("Forwarded", "for=x"),
        ("X-Real-IP", "1.1.1.1"),
        ("Via", "1.0 p"),
    ]
    stripped = strip_request([*fields, ("A", "1")])
    assert stripped.headers.items() == [("A", "1")]
    assert stripped.forwarded.items() == fields


def test_H10_cookie_fields_become_one() -> None:
    assert _kept(("Cookie", "a=1; b=2"), ("A", "1"), ("cookie", "c=3"), ("COOKIE", "d")) == [("Cookie", "a=1; b=2; c=3; d"), ("A", "1")]


def test_H12_repeated_fields_stay_repeated() -> None:
    assert _kept(("X-M", "1"), ("X-M", "2")) == [("X-M", "1"), ("X-M", "2")]


@pytest.mark.parametrize("name", ["Authorization", "Host", "Origin"])
def test_H11_N18_C09_what_must_be_there_once_is_refused_twice(name: str) -> None:
    with pytest.raises(BadRequest):
        strip_request([(name, "a"), ("A", "1"), (name.lower(), "a")])


def test_C09_a_list_of_origins_is_refused() -> None:
    with pytest.raises(BadRequest):
        strip_request([("Origin", "https://a.com, https://b.com")])


@pytest.mark.parametrize(
    ("fields", "upgrade"),
    [
        ([], ""),
        ([("Connection", "Upgrade"), ("Upgrade", "WebSocket")], "websocket"),
        ([("Connection", "keep-alive, upgrade"), ("Upgrade", "h2c, websocket")], "websocket"),
        ([("Connection", "keep-alive"), ("Connection", "UPGRADE"), ("Upgrade", "websocket")], "websocket"),
        ([("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAM")], "h2c"),
        ([("Upgrade", "websocket")], ""),
        ([("Connection", "Upgrade")], ""),
        ([("Connection", "keep-alive"), ("Upgrade", "websocket")], ""),
    ],
)
def test_an_upgrade_is_asked_for_by_both_fields(fields: list[tuple[str, str]], upgrade: str) -> None:
    assert strip_request(fields).upgrade == upgrade


def test_the_host_is_returned_as_sent() -> None:
    assert strip_request([("HOST", "A.com:80")]).host == "A.com:80"
    assert strip_request([]).host is None


@pytest.mark.parametrize("value", [_TRACE, "01" + _TRACE[2:], "cc" + _TRACE[2:] + "-what-the-future-brings"])
def test_a_trace_context_passes(value: str) -> None:
    fields = [("traceparent", value), ("tracestate", "a=b")]
    assert _kept(*fields) == fields


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        _TRACE[:-1],
        _TRACE.upper(),
        "ff" + _TRACE[2:],
        f"{_TRACE}-more",
        "00-" + "0" * 32 + _TRACE[35:],
        _TRACE[:36] + "0" * 16 + "-01",
    ],
)
def test_a_malformed_trace_context_is_dropped_whole(value: str) -> None:
    assert _kept(("traceparent", value), ("A", "1"), ("tracestate", "a=b")) == [("A", "1")]


def test_two_trace_parents_and_a_state_alone_are_dropped() -> None:
    assert _kept(("traceparent", _TRACE), ("Traceparent", _TRACE)) == []
    assert _kept(("tracestate", "a=b")) == []


def test_H01_a_response_loses_what_its_connection_names() -> None:
    fields = [field(name, "1") for name in ("X-A", "X-B", "Set-Cookie", "Content-Length", "X-C")]
    kept = without_nominated(fields, "x-a,close, x-b, set-cookie, content-length")
    assert [name for _, name, _, _ in kept] == ["Set-Cookie", "Content-Length", "X-C"]


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("203.0.113.9", ["1.1.1.1"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", ["6.6.6.6, 1.1.1.1,10.0.0.3 ,\t10.0.0.2"], "1.1.1.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("2001:db8:1::5", ["2001:DB8:0:0::7"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        ("::ffff:9.9.9.9", ["1.1.1.1"], "9.9.9.9"),
        ("", ["1.1.1.1"], ""),
    ],
)
def test_H06_the_client_is_the_first_from_the_right_that_is_not_trusted(peer: str, chain: list[str], client: str) -> None:
    assert client_address(peer, chain, _TRUSTED) == client


@pytest.mark.parametrize(
    ("element", "client"),
    [
        ("1.1.1.1:4711", "1.1.1.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("::ffff:1.1.1.1", "1.1.1.1"),
        ("::FFFF:0101:0101", "1.1.1.1"),
    ],
)
def test_H07_L02_every_spelling_of_an_address(element: str, client: str) -> None:
    assert client_address("10.0.0.1", [f"6.6.6.6, {element}"], _TRUSTED) == client


_NO_ADDRESSES = (
    'unknown _hidden 1.1.1 1.1.1.1.1 01.1.1.1 256.1.1.1 [1.1.1.1] 1.1.1.1%a [::1 ::1] ::: 1.1.1.1:x "1.1.1.1" 1.1.1.1; \xb9.1.1.1 ٣.1.1.1'
)


@pytest.mark.parametrize("element", ["", " ", "1.1.1.1 2.2.2.2", "1.1.1.1" + " " * 100, *_NO_ADDRESSES.split()])
def test_H06_an_element_that_is_no_address_makes_the_header_unbelieved(element: str) -> None:
    assert client_address("10.0.0.1", [f"6.6.6.6, {element}, 10.0.0.2"], _TRUSTED) == "10.0.0.1"


def test_H06_what_a_client_says_left_of_its_own_address_hides_nothing() -> None:
    assert client_address("10.0.0.1", ["unknown, ,,garbage, 1.1.1.1"], _TRUSTED) == "1.1.1.1"


def test_H07_several_fields_are_one_chain() -> None:
    assert client_address("10.0.0.1", ["6.6.6.6", "1.1.1.1", "10.0.0.2"], _TRUSTED) == "1.1.1.1"


def test_H07_a_long_chain_is_bounded_and_still_finds_the_client() -> None:
    assert client_address("10.0.0.1", ["a" * 10_240 + ",1.1.1.1"], _TRUSTED) == "1.1.1.1"
    assert client_address("10.0.0.1", ["1.1.1.1" + ", 10.0.0.2" * 31], _TRUSTED) == "1.1.1.1"
    assert client_address("10.0.0.1", ["1.1.1.1" + ", 10.0.0.2" * 32], _TRUSTED) == "10.0.0.1"


def test_L01_with_nobody_trusted_the_peer_is_the_client() -> None:
    assert client_address("10.0.0.1", ["1.1.1.1"], ()) == "10.0.0.1"
    assert client_address("::ffff:10.0.0.1", ["1.1.1.1"], ()) == "10.0.0.1"
    assert client_address("2001:DB8:0::1", [], ()) == "2001:db8::1"


@given(st.lists(st.sampled_from(["1.1.1.1", "10.0.0.2", "junk", "", "2001:db8:1::1"]), max_size=6))
def test_the_client_is_never_what_it_merely_claims(chain: list[str]) -> None:
    client = client_address("10.0.0.1", [",".join(["6.6.6.6", *chain, "1.1.1.1", "10.0.0.9"])], _TRUSTED)
    assert client == "1.1.1.1"


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [("10.1.2.3", True), ("11.1.2.3", False), ("2001:db8:1::9", True), ("::ffff:10.1.2.3", True), ("", False), ("x", False)],
)
def test_who_is_trusted(peer: str, trusted: bool) -> None:
    assert is_trusted(peer, _TRUSTED) is trusted
    assert not is_trusted(peer, ())


@pytest.mark.parametrize(
    ("said", "scheme"), [("https", "https"), ("HTTPS", "https"), ("https, http", "http"), ("ftp", "http"), ("", "http"), ("https,", "http")]
)
def test_a_trusted_peer_says_which_scheme_the_client_used(said: str, scheme: str) -> None:
    assert client_scheme("http", Headers([("X-Forwarded-Proto", said)])) == scheme


def test_without_a_trusted_peer_the_connection_says_the_scheme() -> None:
    assert client_scheme("https", None) == "https"
    assert client_scheme("https", Headers()) == "https"


def _sent(forwarded: list[tuple[str, str]] | None = None, **how: str) -> dict[str, str]:
    given = {"peer": "203.0.113.9", "client": "203.0.113.9", "scheme": "http", "host": "a.com", "request_id": "r1"} | how
    fields = forwarding_fields(**given, forwarded=Headers(forwarded) if forwarded is not None else None)
    assert len({name.lower() for name, _ in fields}) == len(fields), "a field is there twice"
    return dict(fields)


def test_H16_what_a_proxy_adds_and_nothing_else() -> None:
    assert _sent() == {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "a.com",
        "X-Forwarded-Port": "80",
        "X-Real-IP": "203.0.113.9",
        "X-Request-ID": "r1",
        "Forwarded": 'for=203.0.113.9;proto=http;host="a.com"',
        "Via": "1.1 gwproxy",
    }


def test_a_trusted_peers_chain_is_continued() -> None:
    said = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "1.1.1.1"), ("Via", "1.0 edge"), ("X-Forwarded-Host", "b.com:8443")]
    said += [("X-Forwarded-Proto", "https"), ("X-Forwarded-Prefix", "/api"), ("X-Real-IP", "6.6.6.6"), ("Forwarded", "for=6.6.6.6")]
    sent = _sent(said, peer="10.0.0.1", client="1.1.1.1", scheme="https")
    assert sent == {
        "X-Forwarded-For": "6.6.6.6, 1.1.1.1, 10.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "b.com:8443",
        "X-Forwarded-Port": "8443",
        "X-Forwarded-Prefix": "/api",
        "X-Real-IP": "1.1.1.1",
        "X-Request-ID": "r1",
        "Forwarded": 'for=1.1.1.1;proto=https;host="b.com:8443", for=10.0.0.1',
        "Via": "1.0 edge, 1.1 gwproxy",
    }


def test_H06_a_chain_that_was_not_believed_is_not_continued() -> None:
    assert _sent([("X-Forwarded-For", "6.6.6.6, junk")], peer="10.0.0.1", client="10.0.0.1")["X-Forwarded-For"] == "10.0.0.1"


def test_a_trusted_peers_port_is_kept_and_its_nonsense_host_is_not() -> None:
    sent = _sent([("X-Forwarded-Port", "8443"), ("X-Forwarded-Host", "a b")])
    assert (sent["X-Forwarded-Port"], sent["X-Forwarded-Host"]) == ("8443", "a.com")


def test_addresses_of_version_6_are_written_as_each_field_wants() -> None:
    sent = _sent(peer="2001:db8::1", client="2001:db8::1", host="[::1]:8080", scheme="https")
    assert sent["X-Forwarded-For"] == sent["X-Real-IP"] == "2001:db8::1"
    assert sent["X-Forwarded-Port"] == "8080"
    assert sent["Forwarded"] == 'for="[2001:db8::1]";proto=https;host="[::1]:8080"'


def test_L02_a_mapped_peer_is_its_version_4_address_everywhere() -> None:
    sent = _sent(peer="::ffff:9.9.9.9", client="9.9.9.9")
    assert (sent["X-Forwarded-For"], sent["Forwarded"]) == ("9.9.9.9", 'for=9.9.9.9;proto=http;host="a.com"')


def test_a_client_without_address_or_host_is_unknown() -> None:
    sent = _sent(peer="", client="", host="", version="1.0")
    assert sent == {"X-Forwarded-Proto": "http", "X-Request-ID": "r1", "Forwarded": "for=unknown;proto=http", "Via": "1.0 gwproxy"}


@pytest.mark.parametrize("value", ["a", "4bf92f35-77b3", "Root=1-67891233-abcdef012345678912345678", "a" * 128, "A.b_c:d+e/f="])
def test_a_well_formed_request_id_is_kept(value: str) -> None:
    assert request_id(value) == value


@pytest.mark.parametrize("value", [None, "", "a b", "a" * 129, "é", "a\n", '"a"', "a,b", "<script>"])
def test_another_request_id_is_replaced(value: str | None) -> None:
    made = {request_id(value) for _ in range(100)}
    assert len(made) == 100
    assert all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in made)
