from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from gwproxy.cli import run_file
from gwproxy.cli.run_file import RunInfo
from gwproxy.cli.store_option import find_store
from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings

HERE = RunInfo(os.getpid(), "unix:///here", "here:", "127.0.0.1:8080", "2026-11-22T22:17:00Z")


def settings(**fields: object) -> Settings:
    return dataclasses.replace(Settings.from_environment(), **fields)  # type: ignore[arg-type]


def test_the_option_comes_first(environment: Path) -> None:
    run_file.write(environment, HERE)
    found = find_store("redis://option", settings(redis_url="redis://variable", prefix="p:"))
    assert (found.url, found.prefix) == ("redis://option", "p:")


def test_then_the_environment(environment: Path) -> None:
    run_file.write(environment, HERE)
    assert find_store(None, settings(redis_url="redis://variable")).url == "redis://variable"


def test_then_the_gateway_of_this_machine_with_its_own_prefix(environment: Path) -> None:
    run_file.write(environment, HERE)
    found = find_store(None, settings(prefix="other:"))
    assert (found.url, found.prefix) == ("unix:///here", "here:")


def test_then_the_demo(environment: Path) -> None:
    demo = dataclasses.replace(HERE, redis_url="unix:///demo")
    run_file.write(environment / "demo", demo)
    assert find_store(None, settings()).url == "unix:///demo"
    run_file.write(environment, HERE)
    assert find_store(None, settings()).url == "unix:///here"


def test_else_it_says_what_to_do(environment: Path) -> None:
    with pytest.raises(CommandFailed, match=r"gwproxy run gateway\.yaml.*--redis URL or GWPROXY_REDIS_URL") as caught:
        find_store(None, settings())
    assert str(environment) in str(caught.value)


def test_a_cluster_needs_a_hash_tag(cli) -> None:
    result = cli("status", "--redis", "redis+cluster://a:1,b:2")
    assert result.status == 1
    assert "GWPROXY_PREFIX={gw}:" in result.err


def test_a_url_that_makes_no_sense_is_told_without_its_password(cli) -> None:
    result = cli("logs", "--redis", "http://me:hunter2@x")
    assert result.status == 1
    assert "http://***@x" in result.err
    assert "hunter2" not in result.err
