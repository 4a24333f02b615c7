"""Configurations of the built-in plugins as the commands judge them: their defaults, and what cannot be meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.signers import pem

pytestmark = pytest.mark.e2e

SECRET = "a-secret-of-more-than-32-bytes-for-tests"
PAGE = "https://app.example.com"
KEYS = "https://id.example.com/keys"

#: The sketch's defaults, and those of the contract's table: the effective configuration when nothing is given.
DEFAULTS: dict[str, dict[str, Any]] = {
    "cors": {
        "origins": ["*"],
        "methods": ["GET", "POST", "PUT", "DELETE"],
        "headers": ["Content-Type", "Authorization"],
        "expose_headers": [],
        "allow_credentials": False,
        "max_age": None,
    },
    "jwt_auth": {
        "header_name": "Authorization",
        "algorithms": ["HS256"],
        "issuer": None,
        "audience": None,
        "public_key": None,
        "jwks_url": None,
        "leeway": 0,
        "required_claims": ["exp", "sub"],
    },
    "webhook_signature": {"tolerance": 300, "replay": True},
    "rate_limit": {"limit": 100, "window_seconds": 60, "algorithm": "fixed_window", "key": "auto", "on_store_error": "local"},
    "request_transform": {"add_headers": {}, "remove_headers": [], "rewrite_path": None},
    "pii_log": {"sinks": ["redis"]},
    "access_log": {"log_body": False, "redact": [], "sinks": ["redis"]},
}

#: By plugin: a configuration that is refused, and a part of what is expected in its place.
REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "cors": [
        ({"origins": ["*"], "allow_credentials": True}, "no '*' in origins"),
        ({"origins": [PAGE], "methods": ["*"], "allow_credentials": True}, "no '*' in methods"),
        ({"origins": [PAGE], "headers": ["*"], "allow_credentials": True}, "no '*' in headers"),
        ({"origins": [PAGE], "expose_headers": ["*"], "allow_credentials": True}, "no '*' in expose_headers"),
        ({"origins": ["https://app.example.com/"]}, "without a path"),
        ({"origins": ["HTTPS://app.example.com"]}, "in lower case"),
        ({"origins": ["https://app.example.com:443"]}, "no port where it is the scheme's own"),
        ({"methods": ["get"]}, "case-sensitive"),
        ({"max_age": -1}, "at least 0"),
        ({"max_age": 1, "maxAge": 1}, "one of 'max_age' and 'maxAge'"),
        ({"origin": [PAGE]}, "did you mean 'origins'?"),
    ],
    "jwt_auth": [
        ({}, "a key: secret, public_key or jwks_url"),
        ({"secret": "too short a secret"}, "at least 32 bytes"),
        ({"secret": pem("RS256")}, "no public key"),
        ({"secret": SECRET, "algorithms": ["none"]}, "'HS256'"),
        ({"secret": SECRET, "algorithms": ["HS256", "RS256"]}, "algorithms of one family"),
        ({"secret": SECRET, "public_key": pem("RS256"), "algorithms": ["RS256"]}, "one kind of key"),
        ({"public_key": pem("RS256")}, "such as [RS256], not HS"),
        ({"public_key": pem("RS256"), "algorithms": ["RS256", "PS256"]}, "algorithms of one family"),
        ({"public_key": pem("ES256"), "algorithms": ["ES384"]}, "a key for ES384"),
        ({"jwks_url": KEYS}, "never HS keys"),
        ({"jwks_url": KEYS, "algorithms": ["RS256", "PS256"]}, "either RS or PS"),
        ({"jwks_url": "http://169.254.169.254/", "algorithms": ["RS256"]}, "no link-local or metadata address"),
        ({"secret": SECRET, "leeway": 61}, "at most 60"),
        ({"secret": SECRET, "header_name": "X-A", "headerName": "X-A"}, "one of 'header_name' and 'headerName'"),
    ],
    "webhook_signature": [
        ({"scheme": "github", "secrets": []}, "at least 1"),
        ({"scheme": "github", "secrets": [""]}, "at least 16 bytes"),
        ({"scheme": "standard", "secrets": ["whsec_AAAA"]}, "base64 of 24 to 64 bytes"),
        ({"scheme": "hmac", "secrets": [SECRET]}, "header_name"),
        ({"scheme": "slack", "secrets": [SECRET], "prefix": "v0="}, "which scheme hmac has only"),
        ({"scheme": "gitlab", "secrets": [SECRET]}, "'standard', 'github'"),
    ],
    "rate_limit": [
        ({"limit": 0}, "at least 1"),
        ({"limit": "100"}, "a whole number"),
        ({"limit": True}, "a whole number"),
        ({"window_seconds": 0}, "at least 0.1"),
        ({"windowSeconds": 1, "window_seconds": 1}, "one of 'windowSeconds' and 'window_seconds'"),
        ({"algorithm": "leaky_bucket"}, "'token_bucket'"),
        ({"key": "ip"}, "auto|user|consumer|address|route|header:"),
        ({"on_store_error": "open"}, "'local', 'allow' or 'deny'"),
        ({"limits": 5}, "did you mean 'limit'?"),
    ],
    "request_transform": [
        ({"add_headers": {"X-User-Id": "root"}}, "a header that the gateway does not set itself"),
        ({"remove_headers": ["Content-Length"]}, "a header that the gateway does not set itself"),
        ({"add_headers": {"X": "a\r\nX-Admin: 1"}}, "without line breaks"),
        ({"add_headers": {"X-A": "1", "x-a": "2"}}, "each header once"),
        ({"add_headers": {"X-A": "1"}, "remove_headers": ["x-a"]}, "not in both"),
        ({"add_headers": {"X-A": "1"}, "addHeaders": {"X-A": "1"}}, "one of 'add_headers' and 'addHeaders'"),
        ({"rewrite_path": "v2"}, "a path that starts with '/'"),
        ({"rewrite_path": "/v2?x=1"}, "without query"),
        ({"rewritePath": "/v2/../admin"}, "without empty segments"),
        ({"rewrite_path": "/{id.__class__}"}, "names alone in braces"),
    ],
    "pii_log": [
        ({"patterns": ["ssn"]}, "'email', 'card', 'iban' or 'phone'"),
        ({"custom_patterns": {"x": "(?=a)"}}, "no usable RE2 expression"),
        ({"custom_patterns": {"email": "a"}}, "give the pattern another name"),
        ({"where": []}, "at least 1"),
        ({"scan_limit": 10}, "at least 1024"),
    ],
    "access_log": [
        ({"sinks": []}, "at least 1"),
        ({"sinks": ["syslog"]}, "'redis', 'stdout' or 'file'"),
        ({"sinks": ["file"]}, "go together"),
        ({"file": "/tmp/access.log"}, "go together"),
        ({"sinks": ["file"], "file": "access.log"}, "^/"),
        ({"log_body": "yes"}, "true or false"),
        ({"log_body": True, "logBody": True}, "one of 'log_body' and 'logBody'"),
        ({"body_limit": "2MiB"}, "at most 1048576"),
        ({"redakt": []}, "did you mean 'redact'?"),
    ],
}


def run(folder: Path, entries: list[tuple[str, dict[str, Any]]], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a configuration with these entries, where ``JWT_SECRET`` is not set."""
    plugins = [{"name": name, "config": config} for name, config in entries]
    (folder / "gateway.json").write_text(json.dumps([{"path": "/", "upstream": "http://127.0.0.1:9", "plugins": plugins}]))
    environment = {name: value for name, value in os.environ.items() if name != "JWT_SECRET"}
    command = [sys.executable, "-m", "gwproxy", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_what_is_not_given_is_as_the_contract_says(tmp_path: Path) -> None:
    needed: dict[str, dict[str, Any]] = {"jwt_auth": {"secret": SECRET}, "webhook_signature": {"scheme": "github", "secrets": [SECRET]}}
    done = run(tmp_path, [(name, needed.get(name, {})) for name in DEFAULTS], "explain", "GET", "/", "--json", "--config", "gateway.json")
    effective = {entry["plugin"]: entry["config"] for steps in json.loads(done.stdout)["chain"].values() for entry in steps}
    assert {name: {key: effective[name][key] for key in given} for name, given in DEFAULTS.items()} == DEFAULTS
    assert SECRET not in done.stdout


def test_what_cannot_be_meant_is_refused_all_at_once_and_by_its_place(tmp_path: Path) -> None:
    entries = [(name, config) for name, refused in REFUSED.items() for config, _ in refused]
    expected = [text for refused in REFUSED.values() for _, text in refused]
    done = run(tmp_path, entries, "check", "--json", "gateway.json")
    assert done.returncode == 1
    problems = json.loads(done.stdout)["problems"]
    assert len(problems) == len(entries)
    for number, problem in enumerate(problems):
        assert problem["path"].startswith(f"routes[0].plugins[{number}].config"), entries[number]
        assert expected[number] in problem["expected"], entries[number]
    assert not [secret for secret in (SECRET, "too short a secret", "whsec_AAAA") if secret in done.stdout + done.stderr]
