"""The packaged settings: accepted by gunicorn, strict, and refused in one line where they cannot work."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CONF = HERE.parent.parent / "gunicorn.conf.py"


def run(*arguments, conf=CONF, **env):
    command = [sys.executable, "-m", "gunicorn", "-c", str(conf), "--bind", "127.0.0.1:0", "--chdir", str(HERE), *arguments]
    clean = {key: value for key, value in os.environ.items() if key != "WEB_CONCURRENCY"}
    return subprocess.run([*command, "probe_app:application"], env=clean | env, capture_output=True, text=True, timeout=20, check=False)


def settings(**env):
    shown = run("--print-config", **env)
    assert shown.returncode == 0, shown.stderr
    return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in shown.stdout.splitlines())}


@pytest.mark.parametrize("conf", [CONF, "python:gwproxy.worker.gunicorn_conf"])
def test_gunicorn_accepts_it_without_a_word(conf):
    checked = run("--check-config", conf=conf)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_section_5_of_reliability():
    found = settings()
    assert found["worker_class"] == "gwproxy.worker.GatewayWorker"
    assert int(found["workers"]) >= 2
    expected = {
        "accesslog": "None",
        "backlog": "512",
        "control_socket_disable": "True",
        "forwarded_allow_ips": "[]",
        "forwarder_headers": "[]",
        "graceful_timeout": "30",
        "header_map": "drop",
        "http_parser": "python",
        "keepalive": "15",
        "limit_request_field_size": "8190",
        "limit_request_fields": "100",
        "limit_request_line": "8190",
        "max_requests": "0",
        "permit_obsolete_folding": "False",
        "preload_app": "False",
        "proxy_protocol": "off",
        "reuse_port": "False",
        "strip_header_spaces": "False",
        "timeout": "30",
        "worker_connections": "2000",
    }
    assert {key: found[key] for key in expected} == expected


def test_D10_the_settings_are_those_of_the_table():
    page = (CONF.parent / "docs" / "reliability.md").read_text().partition("## Settings of gunicorn")[2]
    expected = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.MULTILINE))
    found = settings()
    assert len(expected) > 30
    assert {key: found[key] for key in expected} == expected
    assert expected["control_socket_disable"] == "True"


def test_the_environment_sets_workers_but_not_whom_to_trust():
    found = settings(FORWARDED_ALLOW_IPS="*", WEB_CONCURRENCY="7")
    assert (found["forwarded_allow_ips"], found["workers"]) == ("[]", "7")


def test_nothing_imports_ssl_users_before_the_patch():
    code = "import warnings; warnings.simplefilter('error'); import gwproxy.worker.gunicorn_conf"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        ([], {"GWPROXY_HEADER_TIMEOUT": "soon"}, "GWPROXY_HEADER_TIMEOUT is 'soon'"),
        ([], {"GWPROXY_PROXY_PROTOCOL": "v2"}, "GWPROXY_PROXY_PROTOCOL=v2 needs GWPROXY_PROXY_FROM"),
        (["--env", "GWPROXY_BODY_RATE=x"], {}, "GWPROXY_BODY_RATE is 'x'"),
        ([], {"GWPROXY_REDIS_URL": "http://user:hidden@localhost"}, "the Redis URL http://***@localhost must start with one of redis://"),
        ([], {"GWPROXY_REDIS_URL": "redis+cluster://localhost"}, "a Redis cluster needs a prefix with a hash tag"),
        (["--preload"], {}, "does not run with preload_app"),
        (["--certfile", __file__, "--keyfile", __file__], {}, "certfile, keyfile or ca_certs"),
        (["--http-protocols", "h2,h1", "--certfile", __file__, "--keyfile", __file__], {}, "the gateway speaks HTTP/1.1"),
    ],
)
def test_R33_R45_V10_bad_settings_end_the_start_in_one_line(arguments, env, said):
    ended = run(*arguments, **env)
    assert ended.returncode == 1
    errors = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in ended.stderr
    assert "Booting worker" not in ended.stderr


def test_R45_unpatched_is_refused(tmp_path):
    conf = tmp_path / "own.py"
    conf.write_text("worker_class = 'gwproxy.worker.GatewayWorker'\ncontrol_socket_disable = True\n")
    ended = run(conf=conf)
    assert ended.returncode == 1
    assert "must begin with: from gevent import monkey" in ended.stderr
