"""What all models are made of: sizes, durations, names, and what is told of a value that does not fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|KB|MB|GB)?")
_UNITS = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


def parse_size(value: object) -> object:
    """Turn ``"10MiB"`` into bytes; leave anything else to the type's own check.

    :raises ValueError: if it is a string that is no size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("a size is a number of bytes or a string such as '64KiB' or '10MiB'")
    return int(match[1]) * _UNITS[match[2]]


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0, le=1 << 40)]
Duration = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, le=86_400_000, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=1024)]
Identifier = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]


@dataclass(frozen=True, slots=True)
class Shorthand:
    """Of a field that holds an object: what may stand for it, in words, for the documentation."""

    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a configuration is refused (or warned about).

    :ivar path: where in the document, e.g. ``routes[3].plugins[0].config.limit``; empty for the document itself.
    :ivar found: what stands there, masked if it is or may be a secret.
    :ivar expected: what should stand there, with a "did you mean" where one is near.
    :ivar line: 1-based; 0 if the place has no line (an empty document, a cross-check).
    :ivar column: 1-based; 0 as for ``line``.
    :ivar file: the document's name, e.g. ``gateway.yaml`` or ``gw:routes``.
    """

    path: str
    found: str
    expected: str
    line: int = 0
    column: int = 0
    file: str = ""

    def __str__(self) -> str:
        where = f"{self.file or 'configuration'}:{self.line}:{self.column}: "
        return f"{where}{self.path + ': ' if self.path else ''}found {self.found}, expected {self.expected}"


class Model(BaseModel):
    """The base of everything a configuration holds: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True, use_attribute_docstrings=True
    )
