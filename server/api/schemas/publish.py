"""What a publish's body looks like on the OpenAPI page. The body is read as a stream, so no model stands for it."""

from __future__ import annotations

from typing import Any

from server.api.uploads import ARTIFACT_TYPE, MULTIPART_TYPE

_BINARY = {"type": "string", "format": "binary"}
_PARTS: dict[str, Any] = {
    "weights": _BINARY | {"description": "The checkpoint's safetensors file; may be left out with base_version"},
    "config": _BINARY | {"description": "The checkpoint's own JSON, e.g. adapter_config.json"},
    "manifest": _BINARY | {"description": "JSON: template, labels, label_words, generation defaults, examples, .."},
    "alias": {"type": "string", "description": "Moved on success; default live; empty: none"},
    "base_version": {"type": "string", "description": "Parts that are not sent are taken from this version"},
    "force": {"type": "string", "enum": ["", "true", "false"], "description": "Take it for other backbone weights"},
}
_EXAMPLE = {
    "summary": "A PEFT directory",
    "description": "curl -F weights=@adapter_model.safetensors -F config=@adapter_config.json -F alias=live ..",
    "value": {"alias": "live"},
}


def body_of(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the `requestBody` of a route that reads these parts, or one raw artifact."""
    form = {"schema": {"type": "object", "properties": parts}, "examples": {"peft": _EXAMPLE}}
    return {"requestBody": {"required": True, "content": {MULTIPART_TYPE: form, ARTIFACT_TYPE: {"schema": _BINARY}}}}


PUBLISH_BODY = body_of(_PARTS)
PLAN_BODY = body_of(_PARTS | {"task": {"type": "string", "description": "Whose versions base_version means"}})
