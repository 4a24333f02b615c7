"""What the models say about a place in a tree: which keys it may have, whether it holds a secret."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from gwproxy.controlplane.places import same_key

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS = {"secret", "secrets", "password", "passwords", "passwd", "passphrase", "token", "tokens", "private"}
_SECRET_WORDS |= {"credential", "credentials", "apikey", "authorization", "cookie"}
_KEY_WORDS = {"key", "keys"}

#: Type hints that apply to one place; none means: nothing is known.
Hints = tuple[Any, ...]


def alternatives(hint: Any) -> Iterator[Any]:
    """Yield what a hint may be, without ``Annotated`` and unions."""
    origin = get_origin(hint)
    if (aliased := getattr(hint, "__value__", None)) is not None:  # ``type X = ...``
        yield from alternatives(aliased)
    elif origin is Annotated:
        yield from alternatives(get_args(hint)[0])
    elif origin in (Union, UnionType):
        for choice in get_args(hint):
            yield from alternatives(choice)
    else:
        yield hint


def models(hints: Hints) -> list[type[BaseModel]]:
    """Return the models among ``hints``."""
    return [hint for hint in hints if inspect.isclass(hint) and issubclass(hint, BaseModel)]


def inside(hints: Hints, key: str | int) -> Hints:
    """Return what applies to ``key`` (or the item of that index) of a value with ``hints``."""
    found: list[Any] = []
    for hint in hints:
        origin: Any = get_origin(hint)
        arguments = get_args(hint)
        if inspect.isclass(hint) and issubclass(hint, BaseModel):
            names = [name for name, field in hint.model_fields.items() if same_key(str(key), field.alias or name)]
            found += (hint.model_fields[name].annotation for name in names)
        elif inspect.isclass(origin) and issubclass(origin, Mapping) and len(arguments) == 2:
            found.append(arguments[1])
        elif isinstance(key, int):
            found += (argument for argument in arguments if argument is not Ellipsis)
    return tuple(choice for hint in found for choice in alternatives(hint))


def field_at(key: str, hints: Hints) -> tuple[str, FieldInfo] | None:
    """Return the field that ``key`` means, with its name as a model has it; None if no model knows it."""
    for model in models(hints):
        for name, field in model.model_fields.items():
            if same_key(key, field.alias or name):
                return name, field
    return None


def meant(field: FieldInfo, value: Any) -> Any:
    """Return what a field takes ``value`` for: ``10MiB`` is a number of bytes, a ``timeout`` of 30 an object."""
    for item in (*field.metadata, *_annotations(field.annotation)):
        if isinstance(item, BeforeValidator):
            try:
                value = item.func(value)  # type: ignore[call-arg]  # none of ours asks for more
            except (ValueError, TypeError):
                return value
    return value


def _annotations(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Annotated:
        yield from get_args(hint)[1:]
    elif get_origin(hint) in (Union, UnionType):
        for choice in get_args(hint):
            yield from _annotations(choice)


def is_secret(key: str | int, hints: Hints) -> bool:
    """Whether what stands at ``key`` is to be masked.

    By its type, or by its name: ``client_secret``, ``apiKey``, ``token``. ``public_key`` is none, and a plain ``key`` is
    one only where no model declares the field: a declared one would be a ``SecretStr``.
    """
    if any(hint in (SecretStr, SecretBytes) for hint in hints):
        return True
    words = [word.lower() for word in _WORDS.findall(str(key))]
    if _SECRET_WORDS.intersection(words):
        return True
    if not words or words[-1] not in _KEY_WORDS or "public" in words:
        return False
    return len(words) > 1 or not hints
