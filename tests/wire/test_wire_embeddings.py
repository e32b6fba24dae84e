"""Embeddings over HTTP: our own route, and OpenAI's as the official client asks and reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from fakes import classifier, embedder
from wire_server import Server

FIRST, SECOND = [float(n) for n in range(4, 12)], [float(n) for n in range(5, 13)]  # of rows of 3 + 1 and 3 + 2 tokens


@pytest.fixture
def official(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def infer(client: httpx.Client, **parameters: Any) -> Any:
    return client.post("/v1/infer", json={"task_id": "meaning", "inputs": ["a", "ab"], "parameters": parameters})


def test_own_route_answers_with_vectors(server: Server, client: httpx.Client) -> None:
    server.publish(embedder(), "meaning")
    answer = infer(client).json()
    assert answer["kind"] == "embedding"
    assert answer["outputs"] == [{"embedding": FIRST}, {"embedding": SECOND}]
    assert answer["usage"] == {"input_tokens": 3, "virtual_tokens": 6, "output_tokens": 0}


def test_vectors_are_cut_then_scaled(server: Server, client: httpx.Client) -> None:
    server.publish(embedder(), "meaning")
    (first, _) = infer(client, normalize=True, dimensions=2).json()["outputs"]
    assert first["embedding"] == pytest.approx([4 / 41**0.5, 5 / 41**0.5])


def test_manifest_says_the_default_and_the_request_overrides_it(server: Server, client: httpx.Client) -> None:
    server.publish(embedder(normalize=True), "meaning")
    (unit, _) = infer(client).json()["outputs"]
    assert sum(x * x for x in unit["embedding"]) == pytest.approx(1)
    assert infer(client, normalize=False).json()["outputs"][0]["embedding"] == FIRST


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"dimensions": 9}, "parameters.dimensions"),
        ({"dimensions": 0}, "parameters.dimensions"),
        ({"normalize": "yes"}, "parameters.normalize"),
        ({"top_k": 1}, "parameters.top_k"),
    ],
)
def test_parameters_that_do_not_fit_are_named(
    server: Server, client: httpx.Client, parameters: dict[str, Any], param: str
) -> None:
    server.publish(embedder(), "meaning")
    answer = infer(client, **parameters)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_official_client_gets_its_vectors(server: Server, official: openai.OpenAI) -> None:
    version = server.publish(embedder(), "meaning")
    answer = official.embeddings.create(model="meaning", input=["a", "ab"])  # asks for base64 by itself
    assert [item.embedding for item in answer.data] == [FIRST, SECOND]
    assert [item.index for item in answer.data] == [0, 1]
    assert answer.model == f"default/meaning@{version}"
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)


@pytest.mark.parametrize(
    ("given", "expected"), [("a", [FIRST]), ([5], [FIRST]), ([[5], [5, 6]], [FIRST, SECOND]), (["a", "ab"], None)]
)
def test_official_client_may_send_texts_and_token_ids(
    server: Server, official: openai.OpenAI, given: Any, expected: Any
) -> None:
    server.publish(embedder(), "meaning")
    answer = official.embeddings.create(model="default/meaning@live", input=given, encoding_format="float")
    assert [item.embedding for item in answer.data] == (expected or [FIRST, SECOND])


def test_official_client_may_ask_for_fewer_dimensions(server: Server, official: openai.OpenAI) -> None:
    server.publish(embedder(), "meaning")
    (item,) = official.embeddings.create(model="meaning", input="a", dimensions=3).data
    assert item.embedding == FIRST[:3]


def test_official_client_reads_every_error(server: Server, official: openai.OpenAI) -> None:
    server.publish(embedder(), "meaning")
    server.publish(classifier(), "mood")
    with pytest.raises(openai.NotFoundError) as missing:
        official.embeddings.create(model="nothing", input="a")
    assert (missing.value.code, missing.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="mood is a sequence-classification task") as other:
        official.embeddings.create(model="mood", input="a")
    assert other.value.param == "model"
    with pytest.raises(openai.BadRequestError, match=r"dimensions is 9; vectors of this backbone have 8") as wide:
        official.embeddings.create(model="meaning", input="a", dimensions=9)
    assert wide.value.param == "dimensions"
    with pytest.raises(openai.BadRequestError, match=r"^.*input\[1\]: token id 300") as outside:
        official.embeddings.create(model="meaning", input=[[5], [300]])
    assert outside.value.param == "input[1]"
    with pytest.raises(openai.BadRequestError) as unknown:
        official.embeddings.create(model="meaning", input="a", extra_body={"task_type": "x"})
    assert unknown.value.param == "task_type"


def test_what_fails_before_the_route_has_openais_envelope_too(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", content=b"{", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert client.get("/v1/embeddings").json()["error"]["code"] == "method_not_allowed"


def test_token_ids_are_refused_where_virtual_tokens_stand_in_the_text(server: Server, official: openai.OpenAI) -> None:
    server.publish(embedder(template="{text}<soft:3>"), "meaning")
    assert [item.embedding for item in official.embeddings.create(model="meaning", input="a").data] == [FIRST]
    with pytest.raises(openai.BadRequestError, match="input_ids skips the template"):
        official.embeddings.create(model="meaning", input=[[5]])


def test_backbone_says_that_it_gives_embeddings(client: httpx.Client) -> None:
    assert client.get("/v1/backbone").json()["heads"]["embedding"] == {"supported": True, "reason": None}
