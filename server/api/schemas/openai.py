"""Bodies and answers of the routes that speak OpenAI's protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictInt

from server.api.schemas.common import Body, View
from server.api.schemas.infer import TaskId, User

_TokenIds = Annotated[list[Annotated[StrictInt, Field(ge=0)]], Field(min_length=1)]


class EmbeddingsBody(Body):
    """Texts, or texts as token ids; `model` is a task."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "meaning", "input": ["a warm, funny film", "great phone"]}]}
    )

    model: TaskId
    input: Annotated[
        str | Annotated[list[str], Field(min_length=1)] | _TokenIds | Annotated[list[_TokenIds], Field(min_length=1)],
        Field(description="A text, texts, one text as token ids, or several as lists of token ids."),
    ]
    encoding_format: Annotated[
        Literal["float", "base64"], Field(description="base64: little-endian float32, one after the other.")
    ] = "float"
    dimensions: Annotated[int | None, Field(ge=1, description="Only the first so many entries of each vector.")] = None
    user: User = None


class EmbeddingView(View):
    """The vector of one input."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(View):
    """Tokens of all inputs, virtual ones not counted."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(View):
    """A vector for each input. `model` names the version that gave them."""

    object: Literal["list"]
    data: list[EmbeddingView]
    model: str
    usage: EmbeddingsUsage


class OpenAIErrorView(View):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIErrorAnswer(View):
    """OpenAI's shape of errors."""

    error: OpenAIErrorView


OPENAI_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": OpenAIErrorAnswer, "description": "The request cannot be served as it is; `code` says why"},
    "5XX": {"model": OpenAIErrorAnswer, "description": "The server cannot serve it now"},
}
