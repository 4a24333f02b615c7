"""What the order of the phases promises, whatever priorities a configuration gives."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

import pytest

from gwproxy.plugins.cors import Cors
from gwproxy.plugins.request_transform import RequestTransform
from gwproxy.plugins.webhook_signature import WebhookSignature
from tests.service import Gate, Service

SECRET = "an example secret"
BODY = b'{"event": "paid"}'


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service().running() as running:
        yield running


def test_W09_G20_a_transform_comes_after_verification_even_if_its_priority_says_otherwise(service: Service) -> None:
    gate = Gate(Cors(), RequestTransform(), WebhookSignature())
    transform = {"remove_headers": ["X-Hub-Signature-256"], "add_headers": {"X-Verified": "yes"}, "rewrite_path": "/inbox"}
    plugins = [
        {"name": "request_transform", "priority": -1_000_000, "config": transform},
        {"name": "webhook_signature", "priority": 1_000_000, "config": {"scheme": "github", "secrets": [SECRET], "replay": False}},
    ]
    gate.serve([{"path": "/hook", "upstream": service.url, "plugins": plugins}])
    signature = "sha256=" + hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()
    assert gate.client.post("/hook", data=BODY).status_code == 401
    assert gate.client.post("/hook", data=BODY, headers={"X-Hub-Signature-256": signature}).status_code == 200
    (seen,) = service.seen
    names = {name.lower() for name, _ in seen["headers"]}
    assert (seen["target"], seen["body"]) == ("/inbox", BODY.decode())
    assert "x-verified" in names
    assert "x-hub-signature-256" not in names
