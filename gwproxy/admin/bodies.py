"""Reading what a request holds: a bounded body of JSON, and parameters, each problem with its place."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from werkzeug.wrappers import Request
from werkzeug.wsgi import get_input_stream

from gwproxy.admin.answers import Refused
from gwproxy.admin.asked import Parameters
from gwproxy.controlplane.masking import shown
from gwproxy.controlplane.places import path_text
from gwproxy.controlplane.text import MAX_BYTES, read
from gwproxy.errors import ConfigurationRefused
from gwproxy.model import Problem

#: What messages call a body.
FILE = "request.json"

_PIECE = 64 * 1024


def read_body(request: Request, media: str) -> bytes:
    """Return the body.

    :raises Refused: 415 if it is not of the type, which no web form can send; 413 beyond 10 MiB.
    """
    if request.mimetype != media:
        raise Refused(415, f"the body must be {media}", fields=(("Accept-Post" if request.method == "POST" else "Accept-Patch", media),))
    if request.content_encoding:
        raise Refused(415, "a body with a content coding is not read")
    too_large = Refused(413, f"Payload too large: more than {MAX_BYTES} bytes")
    if (request.content_length or 0) > MAX_BYTES:
        raise too_large
    stream, pieces, size = get_input_stream(request.environ), [], 0
    while piece := stream.read(_PIECE):
        size += len(piece)
        if size > MAX_BYTES:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


def load(data: bytes) -> Any:
    """Return the tree of a JSON text.

    :raises Refused: 400 if it is none, nested too deep, or holds a key twice.
    """
    try:
        return read(data, FILE).tree
    except ConfigurationRefused as refused:
        raise Refused(400, "the body is no JSON", problems=refused.problems) from None


def checked(kind: Any, value: Any) -> Any:
    """Return ``value`` as what ``kind`` says.

    :raises Refused: 422, with every problem.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise Refused(422, "the body is not what is expected here", problems=_problems(error)) from None


def parameters(model: type[Parameters], request: Request) -> Any:
    """Return what stands in the query.

    :raises Refused: 400, with every problem; a parameter that is not known or given twice is one.
    """
    twice = [Problem(name, "it twice", "it once") for name, values in request.args.lists() if len(values) > 1]
    if twice:
        raise Refused(400, "the query is not what is expected here", problems=twice)
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise Refused(400, "the query is not what is expected here", problems=_problems(error)) from None


def _problems(error: ValidationError) -> list[Problem]:
    return [
        Problem(path_text(each["loc"]), "nothing" if each["type"] == "missing" else shown(each["input"]), _expected(each["msg"]))
        for each in error.errors(include_url=False, include_context=False)
    ]


def _expected(message: str) -> str:
    return message[:1].lower() + message[1:]
