"""What the scores of a head mean, multi-label or values, over HTTP as the training process has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from engine_cases import backbone_directory
from peft_cases import load_peft, save_peft
from ptuning_cases import PrefixModel, PromptModel, TaskModel
from real_wire import push, scores, served
from safetensors.torch import load_file
from tiny_tokenizers import bert_tokenizer

from prompt_store.formats import Checkpoint
from prompt_store.manifest import HeadKind

TEXT = "a good film"
SEQUENCE = HeadKind.SEQUENCE_CLASSIFICATION


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with served(
        backbone_directory("bert", tmp_path_factory.mktemp("bert")), tmp_path_factory.mktemp("house")
    ) as opened:
        yield opened


class OneValue(PrefixModel):
    """STS-B's kind of head."""

    num_labels = 1


def named(model: TaskModel, **config: Any) -> Checkpoint:
    """Return the checkpoint with what transformers also writes into its config."""
    return Checkpoint(model.checkpoint().tensors, {**(model.checkpoint().config or {}), **config})


def output(client: httpx.Client, task: str, **parameters: Any) -> dict[str, Any]:
    answer = client.post("/v1/infer", json={"task_id": task, "inputs": TEXT, "parameters": parameters})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["outputs"][0]
    return found


def live_logits(model: TaskModel) -> torch.Tensor:
    encoded = bert_tokenizer()(TEXT)
    logits: torch.Tensor = model(encoded["input_ids"], encoded["token_type_ids"])
    return logits


def test_multi_label_is_read_off_the_config(client: httpx.Client) -> None:
    model = PrefixModel("bert", SEQUENCE, seed=2)
    config = {"problem_type": "multi_label_classification", "id2label": {"0": "film", "1": "long", "2": "good"}}
    assert push(client, "topics", named(model, **config)).status_code == 201
    wanted = dict(zip(("film", "long", "good"), live_logits(model).sigmoid().tolist(), strict=True))
    assert scores(client, "topics", TEXT) == pytest.approx(wanted, abs=1e-5)
    limit = sorted(wanted.values())[1]
    found = output(client, "topics", threshold=limit - 1e-3)["labels"]
    assert set(found) == {label for label, score in wanted.items() if score >= limit}


@pytest.mark.parametrize("config", [{}, {"problem_type": "regression", "id2label": {"0": "LABEL_0"}}])
def test_regression_answers_with_its_value(client: httpx.Client, config: dict[str, Any]) -> None:
    model = OneValue("bert", SEQUENCE)
    task = f"similarity-{len(config)}"
    published = push(client, task, named(model, **config))
    assert published.status_code == 201, published.text
    assert not any("labels invented" in check for check in published.json()["checks"])
    assert output(client, task) == {"value": pytest.approx(float(live_logits(model)), abs=1e-5)}


def test_regression_of_several_values(client: httpx.Client) -> None:
    model = PromptModel("bert", SEQUENCE, seed=3)
    assert push(client, "values", named(model, problem_type="regression")).status_code == 201
    assert output(client, "values") == {"value": pytest.approx(live_logits(model).tolist(), abs=1e-5)}


@pytest.mark.parametrize("problem_type", ["multi_label", "regression"])
@pytest.mark.parametrize("method", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_pefts_heads_take_their_problem_type_from_the_manifest(
    client: httpx.Client, method: str, problem_type: str, tmp_path: Path
) -> None:
    """PEFT's own config does not say it."""
    directory = save_peft("bert", method, "SEQ_CLS", tmp_path)
    config = json.loads((directory / "adapter_config.json").read_text())
    checkpoint = Checkpoint(load_file(directory / "adapter_model.safetensors"), config)
    assert push(client, "peft", checkpoint, problem_type=problem_type, labels=["a", "b", "c"]).status_code == 201
    encoded = bert_tokenizer()(TEXT, return_tensors="pt")
    with torch.inference_mode():
        live = load_peft("bert", directory)(**encoded).logits[0]
    if problem_type == "regression":
        assert output(client, "peft") == {"value": pytest.approx(live.tolist(), abs=1e-5)}
    else:
        wanted = dict(zip("abc", live.sigmoid().tolist(), strict=True))
        assert scores(client, "peft", TEXT) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("problem_type", "parameters"), [("single_label", {"threshold": 0.4}), ("regression", {"top_k": 2})]
)
def test_a_parameter_that_the_answer_would_ignore_is_refused(
    client: httpx.Client, problem_type: str, parameters: dict[str, Any]
) -> None:
    model = PrefixModel("bert", SEQUENCE)
    assert push(client, "deaf", model.checkpoint(), problem_type=problem_type).status_code < 300
    refused = client.post("/v1/infer", json={"task_id": "deaf", "inputs": TEXT, "parameters": parameters})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == f"parameters.{next(iter(parameters))}"


def test_problem_type_that_transformers_does_not_know_is_refused(client: httpx.Client) -> None:
    refused = push(client, "odd", named(PrefixModel("bert", SEQUENCE), problem_type="ranking"))
    assert refused.status_code == 422
    assert "problem_type is 'ranking'; transformers knows single_label_classification" in refused.text
