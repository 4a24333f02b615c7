"""The log of refusals under a flood."""

import logging

from gwproxy.worker.refusals import RefusalLog


def test_S09_a_flood_is_a_few_lines_and_a_count(caplog):
    now = 10.0
    log = RefusalLog(per_second=3, clock=lambda: now)
    for _ in range(100):
        log.write("request_refused", "192.0.2.1", 400, "no Host")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    now = 11.0
    log.write("request_refused", "192.0.2.1", 431, "too many")
    assert caplog.messages[-1] == "request_refused client=192.0.2.1 status=431 reason='too many' suppressed=97"
    log.write("request_refused", "192.0.2.1", 431, "too many")
    assert caplog.messages[-1].endswith("suppressed=0")


def test_a_reason_cannot_forge_a_line(caplog):
    RefusalLog().write("request_refused", "192.0.2.1", 400, "a\nrequest_refused client=203.0.113.9")
    assert "\n" not in caplog.messages[0]
