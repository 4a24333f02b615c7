"""``/openapi.json``: the endpoints as OpenAPI 3.1, made of the table that the app routes by and of the types it checks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from gwproxy import __version__
from gwproxy.admin.endpoints import Endpoint
from gwproxy.admin.told import Error, Probe

_REF = "#/components/schemas/{model}"
_TOKEN = {"token": {"type": "http", "scheme": "bearer", "description": "Of the state folder, or made by `gwproxy token create`."}}

#: Path parameters by name, as the app's routing takes them.
_IN_PATH: dict[str, dict[str, Any]] = {"revision": {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999}}
_SEGMENT = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9][A-Za-z0-9._:-]*$"}

#: What any endpoint may answer, beside its own.
_ALWAYS = (400, 401, 403, 429, 500, 503)
_MEANINGS = {
    202: "It is live, but not every worker runs it; `rollout` says which do not, and why.",
    400: "The request is malformed: its query, or a body that is no JSON.",
    401: "No token, or none that is known.",
    403: "The token's role does not allow this; or a page of another origin, or another host, was asked by.",
    404: "There is no such thing.",
    409: "It cannot be done to what is there now.",
    406: "Neither JSON nor server-sent events are accepted.",
    413: "The body is larger than 10 MiB.",
    415: "The body is not of the type that is read here.",
    422: "The body is JSON, but not what is expected; `problems` says where.",
    428: "`If-Match` is missing.",
    429: "Too many wrong tokens came from this address; `Retry-After` says when the next may.",
    500: "A bug of the gateway.",
    503: "The store does not answer, or all streams are taken.",
}


class _Schemas:
    """JSON Schemas of types, those with names kept in one place."""

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}

    def of(self, kind: Any, mode: JsonSchemaMode) -> dict[str, Any]:
        """Return the schema of a type; what it refers to is in :attr:`named`."""
        schema = TypeAdapter(kind).json_schema(ref_template=_REF, mode=mode)
        self.named |= schema.pop("$defs", {})
        if "title" not in schema:
            return schema
        self.named[schema["title"]] = schema
        return {"$ref": _REF.format(model=schema["title"])}


def openapi(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """Return the description of these endpoints and of the probes."""
    schemas, paths = _Schemas(), dict[str, dict[str, Any]]()
    for path in ("/healthz", "/readyz"):
        paths[path] = {"get": _probe(path, schemas)}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gwproxy admin API",
            "version": __version__,
            "description": "Looking into a gateway, and changing what it does.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.named.items())), "securitySchemes": _TOKEN},
    }


def _probe(path: str, schemas: _Schemas) -> dict[str, Any]:
    what = "Whether the process answers" if path == "/healthz" else "Whether the store answers and a worker is ready"
    content = _json(schemas.of(Probe, "serialization"))
    answers = {"200": {"description": "Yes.", "content": content}, "503": {"description": "No.", "content": content}}
    return {"operationId": path.strip("/"), "summary": what, "security": [], "tags": ["probes"], "responses": answers}


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": f"{endpoint.description} Needs the role `{endpoint.role}`.".strip(),
        "tags": [endpoint.path.removeprefix("/v1").split("/")[1]],
        "parameters": [*_in_path(endpoint), *_in_query(endpoint), *endpoint.headers],
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.body is not None:
        content = {endpoint.media: {"schema": schemas.of(endpoint.body, "validation")}}
        made["requestBody"] = {"required": True, "content": content}
    return made


def _in_path(endpoint: Endpoint) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", endpoint.path)
    return [{"name": name, "in": "path", "required": True, "schema": _IN_PATH.get(name, _SEGMENT)} for name in names]


def _in_query(endpoint: Endpoint) -> list[dict[str, Any]]:
    schema = endpoint.query.model_json_schema()
    required = schema.get("required", [])
    found = []
    for name, held in schema.get("properties", {}).items():
        described = {key: value for key, value in held.items() if key not in ("title", "description")}
        found.append(
            {"name": name, "in": "query", "required": name in required, "description": held.get("description", ""), "schema": described}
        )
    return found


def _responses(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    done: dict[str, Any] = {"description": HTTPStatus(endpoint.status).phrase}
    if endpoint.text:
        done["content"] = {endpoint.text: {"schema": {"type": "string"}}}
    elif endpoint.answer is not None:
        done["content"] = _json(schemas.of(endpoint.answer, "serialization"))
    if endpoint.events:
        done["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    with_body = (413, 415, 422) if endpoint.body is not None else ()
    refusals = sorted({*_ALWAYS, *with_body, *endpoint.refusals})
    error = _json(schemas.of(Error, "serialization"))
    told = {str(status): {"description": _MEANINGS[status], "content": error if status >= 400 else done["content"]} for status in refusals}
    return {str(endpoint.status): done, **told}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
