from __future__ import annotations

import json
from pathlib import Path

import pytest

import gwproxy

WRONG = """\
routes:
  - path: api
    upstream: http://127.0.0.1:9000
    plugins:
      - {name: rate_limit, config: {limit: abc}}
  - path: /b
    upstrem: x
"""


def test_a_valid_file_is_one_line(cli, config: Path) -> None:
    result = cli("check", config)
    assert (result.status, result.err) == (0, "")
    assert result.out == f"{config}: valid: 2 routes, 1 upstream, 3 plugins used\n"


def test_every_problem_is_a_line_with_its_place(cli, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(WRONG)
    result = cli("check", path)
    assert (result.status, result.out) == (1, "")
    lines = result.err.splitlines()
    assert lines[-1] == f"{path}: {len(lines) - 1} problems"
    assert f"{path}:5:44: routes[0].plugins[0].config.limit: found 'abc', expected a whole number" in lines
    assert [line.split(":")[1] for line in lines[:-1]] == ["2", "5", "6", "7"]
    assert all(" found " in line and ", expected " in line for line in lines[:-1])


def test_problems_as_json(cli, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(WRONG)
    result = cli("check", path, "--json")
    assert (result.status, result.err) == (1, "")
    held = json.loads(result.out)
    assert held["valid"] is False
    assert held["warnings"] == []
    limit = next(problem for problem in held["problems"] if problem["line"] == 5)
    assert limit == {
        "path": "routes[0].plugins[0].config.limit",
        "found": "'abc'",
        "expected": "a whole number",
        "line": 5,
        "column": 44,
        "file": str(path),
    }


def test_a_valid_file_as_json(cli, config: Path) -> None:
    result = cli("check", "--json", config)
    assert result.status == 0
    assert json.loads(result.out) == {"valid": True, "problems": [], "warnings": []}


def test_stdin(cli) -> None:
    assert cli("check", "-", stdin="[]").out == "stdin: valid: 0 routes, 0 upstreams, 0 plugins used\n"
    refused = cli("check", "-", stdin="[1]")
    assert refused.status == 1
    assert refused.err.startswith("stdin:1:2: routes[0]: ")


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_what_cannot_be_read_exits_1(cli, tmp_path: Path, name: str) -> None:
    result = cli("check", tmp_path / name)
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(f"gwproxy: error: {tmp_path / name}: ")
    assert len(result.err.splitlines()) == 1


UNSET = '[{path: /a, upstream: "${GW_USERS}", timeout: "${GW_T}"}]'


def test_an_unset_variable_is_a_warning(cli) -> None:
    result = cli("check", "-", stdin=UNSET)
    assert result.status == 0
    assert result.out == "stdin: valid: 1 route, 0 upstreams, 0 plugins used\n"
    first, second = result.err.splitlines()
    assert first.startswith("stdin:1:23: warning: routes[0].upstream: found ${GW_USERS}, which is not set here")
    assert "GW_T" in second
    assert len(json.loads(cli("check", "-", "--json", stdin=UNSET).out)["warnings"]) == 2


def test_with_strict_env_an_unset_variable_is_a_problem(cli) -> None:
    result = cli("check", "--strict-env", "-", stdin=UNSET)
    assert (result.status, result.out) == (1, "")
    assert "warning" not in result.err
    assert result.err.endswith("stdin: 2 problems\n")


def test_a_set_variable_is_checked_and_never_shown(cli, monkeypatch) -> None:
    monkeypatch.setenv("GW_USERS", "http://10.0.0.5")
    monkeypatch.setenv("GW_T", "no-number-but-secret")
    result = cli("check", "-", stdin=UNSET)
    assert result.status == 1
    assert result.err.startswith("stdin:1:47: routes[0].timeout: found the value of ${GW_T}, expected ")
    assert "no-number-but-secret" not in result.err


def test_a_secret_that_is_not_set_here_is_a_warning_for_plugins_that_judge_their_configuration_as_a_whole(cli) -> None:
    demo = Path(gwproxy.__file__).parent / "demo" / "demo.yaml"
    result = cli("check", demo)
    assert result.status == 0
    assert "warning: routes[1].plugins[0].config.secret: found ${GW_DEMO_JWT_SECRET}" in result.err


def test_a_missing_key_is_a_problem_beside_an_unset_variable(cli) -> None:
    result = cli("check", "-", stdin='[{upstream: "${GW_USERS}"}]')
    assert result.status == 1
    assert "the key 'path', which is required" in result.err


BROKEN = "raise RuntimeError('no such luck')"


def test_a_broken_package_that_is_used_is_a_problem_by_name(cli, install) -> None:
    install("broken", BROKEN)
    result = cli("check", "-", stdin="[{path: /a, upstream: 'http://x', plugins: [{name: broken}]}]")
    assert result.status == 1
    assert "routes[0].plugins[0].name: found plugin 'broken', which does not load: gw-broken 1.2" in result.err
    assert "no such luck" in result.err


def test_a_broken_package_that_is_not_used_is_a_warning(cli, install) -> None:
    install("broken", BROKEN)
    result = cli("check", "-", stdin="[]")
    assert result.status == 0
    assert result.err.startswith("stdin: warning: found the installed plugin 'broken', which does not load (gw-broken 1.2")
    (warning,) = json.loads(cli("check", "-", "--json", stdin="[]").out)["warnings"]
    assert "'broken'" in warning["found"]


def test_plugins_that_are_disabled_are_not_used(cli) -> None:
    routes = "routes: [{path: /a, upstream: 'http://x', plugins: [{name: cors, enabled: false}]}]"
    text = f"{{{routes}, plugins: [{{name: cors}}], consumers: [{{id: a, match: {{user_id: a}}}}]}}"
    assert cli("check", "-", stdin=text).out == "stdin: valid: 1 route, 0 upstreams, 1 consumer, 1 plugin used\n"
    assert cli("check", "-", stdin=text.replace(", plugins: [{name: cors}],", ",")).out.endswith("0 plugins used\n")
