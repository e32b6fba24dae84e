"""Embeddings of real texts over HTTP: published as PEFT saves them, and without any prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from engine_cases import backbone_directory
from peft_cases import load_peft, save_peft, tiny_model
from real_wire import served
from tiny_tokenizers import bert_tokenizer

TEXTS = ["a good film", "it was not a very bad movie, and the plot was great", "great"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with served(
        backbone_directory("bert", tmp_path_factory.mktemp("bert")), tmp_path_factory.mktemp("house")
    ) as opened:
        yield opened


def push(client: httpx.Client, task: str, files: dict[str, bytes], **manifest: Any) -> httpx.Response:
    return client.post(f"/v1/tasks/{task}/versions", files={**files, "manifest": json.dumps(manifest).encode()})


def vectors(client: httpx.Client, task: str, **parameters: Any) -> torch.Tensor:
    answer = client.post("/v1/infer", json={"task_id": task, "inputs": TEXTS, "parameters": parameters})
    assert answer.status_code == 200, answer.text
    return torch.tensor([output["embedding"] for output in answer.json()["outputs"]])


@torch.inference_mode()
def sentence_transformers_mean(model: Any, num_virtual_tokens: int = 0) -> torch.Tensor:
    """Return mean pooling over the attention mask of one padded batch, the text's part of it alone."""
    batch = bert_tokenizer()(TEXTS, padding=True, return_token_type_ids=False, return_tensors="pt")
    hidden = model(**batch).last_hidden_state[:, num_virtual_tokens:]
    mask = batch["attention_mask"].unsqueeze(-1).float()
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("method", "rows"), [("PROMPT_TUNING", 5), ("PREFIX_TUNING", 0)])
def test_feature_extraction_adapter_answers_as_in_peft(
    client: httpx.Client, method: str, rows: int, tmp_path: Path
) -> None:
    directory = save_peft("bert", method, "FEATURE_EXTRACTION", tmp_path)
    files = {
        "weights": (directory / "adapter_model.safetensors").read_bytes(),
        "config": (directory / "adapter_config.json").read_bytes(),
    }
    published = push(client, method.lower(), files)
    assert published.status_code == 201, published.text
    assert published.json()["kind"] == "embedding"
    wanted = sentence_transformers_mean(load_peft("bert", directory), rows)
    torch.testing.assert_close(vectors(client, method.lower()), wanted, atol=1e-5, rtol=0.0)


def test_backbone_alone_gives_sentence_transformers_vectors(client: httpx.Client) -> None:
    published = push(client, "plain", {}, kind="embedding", template="{text}", normalize=True)
    assert published.status_code == 201, published.text
    wanted = torch.nn.functional.normalize(sentence_transformers_mean(tiny_model("bert", "FEATURE_EXTRACTION")[0]))
    torch.testing.assert_close(vectors(client, "plain"), wanted, atol=1e-5, rtol=0.0)
    half = torch.nn.functional.normalize(wanted[:, :16])
    torch.testing.assert_close(vectors(client, "plain", dimensions=16), half, atol=1e-5, rtol=0.0)


def test_nothing_at_all_is_no_task(client: httpx.Client) -> None:
    refused = push(client, "nothing", {}, template="{text}")
    assert refused.status_code == 422
    assert "whose manifest says kind or label_words" in refused.json()["error"]["message"]


def test_golden_example_holds_a_vector_to_its_promise(client: httpx.Client) -> None:
    push(client, "source", {}, kind="embedding", template="{text}")
    vector = vectors(client, "source")[0].tolist()
    example = {"inputs": TEXTS[0], "outputs": {"embedding": vector}, "tolerance": 1e-4}
    kept = push(client, "promised", {}, kind="embedding", template="{text}", examples=[example])
    assert kept.status_code == 201, kept.text
    broken = push(client, "broken", {}, kind="embedding", template="{text}", pool="cls", examples=[example])
    assert (broken.status_code, broken.json()["error"]["type"]) == (422, "trial_failed")
