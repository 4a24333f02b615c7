"""The base classes of a plugin and of its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import ConfigDict, ValidationInfo, model_validator

from gwproxy.model import Model


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def freeze(value: Any) -> Any:
    """Return ``value`` with every list a tuple, every set a frozenset and every dict a read-only mapping."""
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(item) for key, item in value.items()})
    return value


class PluginConfig(Model):
    """The base of a plugin's configuration: typed fields with defaults; unknown keys are refused.

    An instance is made when a configuration is applied, once for each entry, and is deeply frozen: what a hook gets
    can be kept and shared, never changed. Compute there, in a validator or a ``cached_property``, what hooks would
    compute for each request. A field ``window_seconds`` may also be given as ``windowSeconds``, but not as both.
    Give each field a description, bounds and a unit; hold secrets as :class:`pydantic.SecretStr`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, ignored_types=())

    @model_validator(mode="before")
    @classmethod
    def _accept_camel_case(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for name in cls.model_fields:
            camel = _camel(name)
            if camel == name or camel not in data:
                continue
            if name in data:
                raise ValueError(f"{name!r} is given twice, as {name!r} and as {camel!r}")
            data[name] = data.pop(camel)
        return data

    def model_post_init(self, context: Any, /) -> None:
        """Freeze what the fields hold."""
        for name in type(self).model_fields:
            value = self.__dict__[name]
            if isinstance(value, (list, tuple, set, dict)):
                self.__dict__[name] = freeze(value)


class Plugin:
    """The base of a plugin: subclass it, give it a name, and a method for each phase it takes part in.

    One instance is made in each worker and serves all routes and all requests at once: it keeps nothing about a request.

    :cvar name: the name of the entry point, as used in configurations.
    :cvar version: shown by ``gwproxy plugins list`` and in heartbeats.
    :cvar priority: within a phase the lowest number runs first; a route's entry may replace it.
    :cvar config_model: the model of ``config``; the default has no fields.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "0"
    priority: ClassVar[int] = 500
    config_model: ClassVar[type[PluginConfig]] = PluginConfig
