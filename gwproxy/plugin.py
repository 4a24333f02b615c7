"""The base classes of a plugin and of its configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    PrivateAttr,
    SecretStr,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from gwproxy.model import Model, Route

C = TypeVar("C", bound="PluginConfig")

#: Characters of a secret, from which on logs are kept free of it.
SHORTEST_SECRET = 5

#: The keys of a core schema that hold values, not schemas.
_VALUES = frozenset({"default", "expected", "metadata", "serialization"})
#: What JSON has no form of its own for, and therefore writes as an array or a string.
_NOT_IN_JSON = frozenset({"bytes", "date", "datetime", "decimal", "frozenset", "set", "time", "timedelta", "tuple", "url", "uuid"})


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _take_json(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_take_json(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if not isinstance(kind, str):  # the fields of a model, by name
        return {name: _take_json(item) for name, item in schema.items()}
    schema = {key: item if key in _VALUES else _take_json(item) for key, item in schema.items()}
    if kind in _NOT_IN_JSON:
        schema.setdefault("strict", False)
    return schema


def freeze(value: Any) -> Any:
    """Return ``value`` with every list a tuple, every set a frozenset and every dict a read-only mapping."""
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(item) for key, item in value.items()})
    return value


def thaw(value: Any) -> Any:
    """Return ``value`` with every read-only mapping a dict, as serializers know it."""
    if isinstance(value, MappingProxyType):
        return {key: thaw(item) for key, item in value.items()}
    return tuple(thaw(item) for item in value) if type(value) is tuple else value


@dataclass(frozen=True, slots=True)
class Entry:
    """Where in a configuration the entry of a plugin stands: what tells two entries of one plugin apart.

    It is the same on every worker, and stays the same across changes that leave the list of that plugin alone.

    :ivar route: the id of the route that holds the entry; None for a global entry, whatever route it runs on.
    :ivar index: how many entries of the same plugin come before it in that list; 0 for the first.
    """

    route: str | None = None
    index: int = 0


class PluginConfig(Model):
    """The base of a plugin's configuration: typed fields with defaults; unknown keys are refused.

    An instance is made when a configuration is applied, once for each entry, and is deeply frozen: what a hook gets
    can be kept and shared, never changed. Entries that are configured alike may share what the fields hold. Compute
    there, in a validator or a ``cached_property``, what hooks would compute for each request. What depends on the route that
    the entry is on is judged in :meth:`check_route`. A field
    ``window_seconds`` may also be given as ``windowSeconds``, but not as both. Give each field a description, bounds
    and a unit; hold secrets as :class:`pydantic.SecretStr`, choices as ``Literal`` (a string is no ``Enum`` where types
    are strict), and derive nested models from this class too. The name
    ``entry`` is taken, and so is ``check_route``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, ignored_types=())

    _entry: Entry = PrivateAttr(default_factory=Entry)

    @property
    def entry(self) -> Entry:
        """The entry this is the configuration of; not known yet (the default) while it is validated."""
        return self._entry

    def check_route(self, route: Route, params: Collection[str]) -> None:
        """Judge the route that the entry is on, when a configuration is checked or applied; by default it fits every route.

        It is called for each route that has the entry, be it a global one; :attr:`entry` is not known yet.

        :param route: as configured.
        :param params: the names that ``ctx.params`` may have there: of its template's parameters, or of its regex's named groups.
        :raises ValueError: it does not fit; the message says what would. The configuration is refused then.
        """

    _camel_names: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Note which names are camelCase forms of fields."""
        super().__pydantic_init_subclass__(**kwargs)
        cls._camel_names = frozenset(_camel(name) for name in cls.model_fields) - cls.model_fields.keys()

    @model_validator(mode="before")
    @classmethod
    def _accept_camel_case(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        if cls._camel_names.isdisjoint(data):
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

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler, /) -> CoreSchema:
        """Let strict fields take what JSON can give them: an array for a tuple, a string for a date.

        Pydantic does so by itself, but not behind a ``before`` validator: what passed one counts as Python's.
        """
        schema: CoreSchema = _take_json(handler(source))
        return schema

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self  # frozen; pydantic copies defaults, and a read-only mapping cannot be

    @model_serializer(mode="wrap")
    def _thawed(self, serialize: SerializerFunctionWrapHandler) -> Any:
        return serialize(self.model_copy(update={name: thaw(self.__dict__[name]) for name in type(self).model_fields}))

    def model_post_init(self, context: Any, /) -> None:
        """Freeze what the fields hold."""
        for name in type(self).model_fields:
            value = self.__dict__[name]
            if isinstance(value, (list, tuple, set, dict)):
                self.__dict__[name] = freeze(value)


def bind_entry(config: C, entry: Entry) -> C:
    """Return a copy of ``config`` that knows its entry; ``config`` itself stays as it is and may be bound again.

    The fields are shared, being frozen. What ``config`` has cached is not: it may depend on the entry.
    """
    kind = type(config)
    bound = kind.__new__(kind)
    fields = config.__dict__
    # PERF: 2 us instead of the 10 of pydantic's copy, which makes a set of its own too.
    object.__setattr__(bound, "__dict__", {name: fields[name] for name in kind.model_fields if name in fields})
    object.__setattr__(bound, "__pydantic_fields_set__", config.__pydantic_fields_set__)
    object.__setattr__(bound, "__pydantic_extra__", config.__pydantic_extra__)
    object.__setattr__(bound, "__pydantic_private__", {**(config.__pydantic_private__ or {}), "_entry": entry})
    return bound


def is_shareable(config: PluginConfig) -> bool:
    """Whether several entries may have copies of one validated configuration: a plugin keeps nothing private in it."""
    return type(config).__private_attributes__.keys() == {"_entry"}


def secrets_in(value: object) -> Iterator[str]:
    """Yield the secrets that a configuration holds, wherever in it; none so short that ordinary words would hold it."""
    if isinstance(value, SecretStr):
        if len(secret := value.get_secret_value()) >= SHORTEST_SECRET:
            yield secret
    elif isinstance(value, BaseModel):
        yield from secrets_in(value.__dict__)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from secrets_in(item)
    elif isinstance(value, (tuple, list, frozenset, set)):
        for item in value:
            yield from secrets_in(item)


class Plugin:
    """The base of a plugin: subclass it, give it a name, and a method for each phase it takes part in.

    One instance is made in each worker and serves all routes and all requests at once: it keeps nothing about a request.

    :cvar name: the name of the entry point, as used in configurations.
    :cvar version: shown by ``gwproxy plugins list`` and in heartbeats.
    :cvar priority: within a phase the lowest number runs first; a route's entry may replace it.
    :cvar config_model: the model of ``config``; the default has no fields.
    :cvar api_version: the version of the plugin API that it is written for; a gateway that has not got that refuses it at load.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "0"
    priority: ClassVar[int] = 500
    config_model: ClassVar[type[PluginConfig]] = PluginConfig
    api_version: ClassVar[int] = 1
