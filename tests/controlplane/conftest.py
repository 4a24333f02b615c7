"""What tests of the parser share: a registry of a few plugins, an environment, and short ways to parse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from gevent import GreenletExit
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gwproxy import Plugin, PluginConfig, hookimpl
from gwproxy.controlplane.environment import Environment
from gwproxy.controlplane.parse import Parsed, parse
from gwproxy.errors import ConfigurationRefused
from gwproxy.model import Problem
from gwproxy.registry import Registry


class LimitConfig(PluginConfig):
    limit: int = Field(default=100, ge=1)
    window_seconds: float = Field(default=60.0, gt=0)
    key: str = "auto"
    on_error: bool = False


class Limit(Plugin):
    name = "limit"
    config_model = LimitConfig

    @hookimpl
    def post_auth(self, ctx: Any, config: LimitConfig) -> None: ...


class Rule(PluginConfig):
    name: str
    value: SecretStr


#: What a validator raises, by the secret it is given.
CRASHES = {"crash": RuntimeError, "exit": SystemExit, "kill": GreenletExit, "end": BaseException}


class LoginConfig(PluginConfig):
    secret: SecretStr
    rules: tuple[Rule, ...] = ()
    by_name: dict[str, SecretStr] = Field(default_factory=dict)

    @field_validator("secret")
    @classmethod
    def _long(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text in CRASHES:
            raise CRASHES[text](f"the secret is {text}")
        if len(text) < 8:
            raise ValueError(f"at least 8 characters, unlike {text}")
        return value

    @model_validator(mode="after")
    def _differ(self) -> LoginConfig:
        for rule in self.rules:
            if rule.value == self.secret:
                raise PydanticCustomError("same", "rules unlike {secret}", {"secret": self.secret.get_secret_value()})
        return self


class Login(Plugin):
    name = "login"
    config_model = LoginConfig

    @hookimpl
    def auth(self, ctx: Any, config: LoginConfig) -> None: ...


ENVIRONMENT = Environment(
    {"GW_LIMIT": "5", "GW_SECRET": "correct-horse", "GW_TRUE": "true", "GW_EMPTY": "", "HOME": "/root", "GW_SHORT": "shorty"},
    lambda name: name.startswith("GW_"),
)

#: ``refused(text)`` returns the problems; ``found(text)`` their texts.
Refused = Callable[..., tuple[Problem, ...]]
Accepted = Callable[..., Parsed]


@pytest.fixture
def plugins() -> Registry:
    registry = Registry.of(Limit(), Login())
    registry.broken["geo"] = "package geo 1.0 does not import: ImportError: no maxmind"
    return registry


@pytest.fixture
def accepted(plugins: Registry) -> Accepted:
    def run(text: str | bytes, **options: Any) -> Parsed:
        data = text.encode() if isinstance(text, str) else text
        return parse(data, **{"file": "gateway.yaml", "plugins": plugins, "environment": ENVIRONMENT, **options})

    return run


@pytest.fixture
def refused(accepted: Accepted) -> Refused:
    def run(text: str | bytes, **options: Any) -> tuple[Problem, ...]:
        with pytest.raises(ConfigurationRefused) as caught:
            accepted(text, **options)
        assert all(problem.file == options.get("file", "gateway.yaml") for problem in caught.value.problems)
        return caught.value.problems

    return run


@pytest.fixture
def only(refused: Refused) -> Callable[..., Problem]:
    """Parse what has exactly one problem, and return it."""

    def run(text: str | bytes, **options: Any) -> Problem:
        (problem,) = refused(text, **options)
        return problem

    return run
