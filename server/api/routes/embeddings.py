"""Embeddings as OpenAI's clients ask for them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import JsonValue

from prompt_store.manifest import HeadKind
from server.api.auth import TenantCaller, tenant_access
from server.api.context import context_of
from server.api.inference import answered
from server.api.limits import Deadline, inference_permit
from server.api.routes.infer import Sticky
from server.api.schemas.openai import OPENAI_ERRORS, EmbeddingsAnswer, EmbeddingsBody
from server.api.services import ServicesOf
from server.inference.answer import Answer, InferCall
from server.inference.errors import RequestError

router = APIRouter(
    prefix="/v1",
    dependencies=[Depends(tenant_access), Depends(inference_permit)],
    responses=OPENAI_ERRORS,
    tags=["openai"],
)


@router.post("/embeddings", response_model=EmbeddingsAnswer)
async def embeddings(
    request: Request,
    body: EmbeddingsBody,
    caller: TenantCaller,
    services: ServicesOf,
    deadline: Deadline,
    sticky: Sticky = None,
) -> JSONResponse:
    """Answer with the vectors of a task whose head is a pooling, in OpenAI's shape."""
    context_of(request.scope).task = body.model
    call = InferCall(
        caller.ref(body.model), _inputs(body), _parameters(body), sticky or body.user, deadline, HeadKind.EMBEDDING
    )
    try:
        answer = await answered(request, services, call)
    except RequestError as error:
        raise RequestError(_in_openai_words(str(error)), _in_openai_words(error.param)) from error
    return JSONResponse(_shown(answer, body.encoding_format == "base64"))


def _inputs(body: EmbeddingsBody) -> JsonValue:
    if isinstance(body.input, str):
        return body.input
    if isinstance(body.input[0], int):
        return {"input_ids": list[JsonValue](body.input)}
    return [item if isinstance(item, str) else {"input_ids": list[JsonValue](item)} for item in body.input]


def _parameters(body: EmbeddingsBody) -> dict[str, JsonValue]:
    return {} if body.dimensions is None else {"dimensions": body.dimensions}


def _in_openai_words(said: str) -> str:
    """Name the field at fault as this route does; messages begin with it."""
    for ours, theirs in (("parameters.", ""), ("inputs", "input"), ("task_id", "model")):
        if said.startswith(ours):
            return theirs + said.removeprefix(ours)
    return said


def _shown(answer: Answer, is_base64: bool) -> dict[str, Any]:
    """Return an EmbeddingsAnswer's JSON. By hand: validating every number would take longer than the backbone."""
    vectors = [output["embedding"] for output in answer.outputs if isinstance(output, dict)]
    num_tokens = answer.usage.input_tokens
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if is_base64 else vector}
            for index, vector in enumerate(vectors)
        ],
        "model": f"{answer.task}@{answer.version}",
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


def _packed(vector: JsonValue) -> str:
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()
