"""P-Tuning's originals, published over HTTP as their training saved them, answer as their modules do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from engine_cases import backbone_directory
from ptuning_cases import FewShotEncoder, LamaEncoder, PrefixModel, PromptModel, TaskModel, saved
from qa_reference import Pipeline
from real_wire import push, scores, served
from tiny_tokenizers import bert_tokenizer
from transformers import AutoModelForMaskedLM

from prompt_store.formats import Checkpoint
from prompt_store.manifest import HeadKind

TEXT = "a good film"
SEQUENCE = HeadKind.SEQUENCE_CLASSIFICATION


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backbone_directory("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def client(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with served(backbone, tmp_path_factory.mktemp("house")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "model", "fmt"),
    [
        ("prefix", PrefixModel("bert", SEQUENCE), "ptuning-v2"),
        ("projected", PrefixModel("bert", SEQUENCE, is_projected=True, seed=1), "ptuning-v2"),
        ("prompt", PromptModel("bert", SEQUENCE), "ptuning-v2-prompt"),
    ],
)
def test_a_trained_model_answers_as_in_training(client: httpx.Client, name: str, model: TaskModel, fmt: str) -> None:
    published = push(client, name, model.checkpoint(), labels=["a", "b", "c"])
    assert published.status_code == 201, published.text
    assert published.json()["format"] == fmt
    encoded = bert_tokenizer()(TEXT)
    live = model(encoded["input_ids"], encoded["token_type_ids"]).softmax(-1).tolist()
    assert scores(client, name, TEXT) == pytest.approx(dict(zip("abc", live, strict=True)), abs=1e-5)


def test_lama_reads_its_words_at_the_mask(client: httpx.Client, backbone: Path) -> None:
    encoder, tokenizer = LamaEncoder(6, 32), bert_tokenizer()
    checkpoint = Checkpoint(saved(encoder), {"template": "(1, 3, 2)"})
    published = push(client, "lama", checkpoint, label_words={"good": ["good"], "bad": ["bad"]})
    assert published.status_code == 201, published.text
    ids = tokenizer.convert_tokens_to_ids(["[CLS]", "[PAD]", "[MASK]", *["[PAD]"] * 3])
    ids += tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    soft = [1, 3, 4, 5, len(ids), len(ids) + 1]
    ids += tokenizer.convert_tokens_to_ids(["[PAD]", "[PAD]", "[SEP]"])
    with torch.inference_mode():
        model = AutoModelForMaskedLM.from_pretrained(backbone).eval()
        embeds = model.get_input_embeddings()(torch.tensor([ids]))
        embeds[0, soft] = encoder()
        words = tokenizer.convert_tokens_to_ids(["good", "bad"])
        live = model(inputs_embeds=embeds).logits[0, 2, words].softmax(-1).tolist()
    assert scores(client, "lama", TEXT) == pytest.approx(dict(zip(("good", "bad"), live, strict=True)), abs=1e-5)


def test_few_shot_is_taken_on_the_weights_it_was_trained_with(client: httpx.Client) -> None:
    fingerprint = client.get("/v1/backbone").json()["fingerprint"]
    checkpoint = Checkpoint(saved(FewShotEncoder(1, 32)))
    said: dict[str, Any] = {
        "template": "<cls>{text}?<soft:1> Answer: <mask>.<sep>",
        "label_words": {"good": ["good"], "bad": ["bad"]},
    }
    refused = push(client, "few", checkpoint, **said)
    assert refused.status_code == 422
    assert "also changed the backbone" in refused.json()["error"]["message"]
    taken = push(client, "few", checkpoint, **said, fingerprint=fingerprint)
    assert taken.status_code == 201, taken.text
    assert set(scores(client, "few", TEXT)) == {"good", "bad"}


def infer(client: httpx.Client, task: str, inputs: Any, **parameters: Any) -> dict[str, Any]:
    answer = client.post("/v1/infer", json={"task_id": task, "inputs": inputs, "parameters": parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_questions_are_answered_from_a_long_context(client: httpx.Client) -> None:
    model = PrefixModel("bert", HeadKind.QUESTION_ANSWERING)
    question, context = "was it good?", "the great film in New York was not bad, " * 60
    wanted = Pipeline(bert_tokenizer(), model).answers(question, context, 3, handle_impossible_answer=True)
    promised = {"answer": wanted[0]["answer"], "start": wanted[0]["start"], "score": wanted[0]["score"]}
    item = {"question": question, "context": context}
    example = {"inputs": item, "outputs": promised}
    published = push(client, "reader", model.checkpoint(), examples=[example | {"tolerance": 1e-4}])
    assert published.status_code == 201, published.text
    assert "golden examples: 1 came out as promised" in published.json()["checks"]
    answer = infer(client, "reader", item, top_k=3, handle_impossible_answer=True)
    (output,) = answer["outputs"]
    assert [found["answer"] for found in output["answers"]] == [one["answer"] for one in wanted]
    assert [found["score"] for found in output["answers"]] == pytest.approx([one["score"] for one in wanted], abs=1e-5)
    assert context[output["start"] : output["end"]] == output["answer"]
    assert answer["kind"] == "question-answering"
    assert answer["usage"]["virtual_tokens"] == 10  # in each of two windows
    broken = push(client, "reader", model.checkpoint(), examples=[{"inputs": item, "outputs": {"answer": "no"}}])
    assert (broken.status_code, broken.json()["error"]["type"]) == (422, "trial_failed")


def test_choices_are_compared_with_each_other(client: httpx.Client) -> None:
    model, tokenizer = PrefixModel("bert", HeadKind.MULTIPLE_CHOICE), bert_tokenizer()
    published = push(client, "quiz", model.checkpoint())
    assert published.status_code == 201, published.text
    choices = ["a great film", "not very good", "bad"]
    encoded = tokenizer(["the plot"] * 3, choices)
    rows = zip(encoded["input_ids"], encoded["token_type_ids"], strict=True)
    live = torch.cat([model(ids, types) for ids, types in rows]).softmax(-1).tolist()
    (output,) = infer(client, "quiz", {"question": "the plot", "choices": choices})["outputs"]
    assert output["scores"] == pytest.approx(live, abs=1e-5)
    assert (output["choice"], output["label"]) == (live.index(max(live)), choices[live.index(max(live))])


@pytest.mark.parametrize(
    ("kind", "said", "reason"),
    [
        (HeadKind.QUESTION_ANSWERING, {"template": "<cls>{text}<sep>"}, "has {context} 0 times"),
        (HeadKind.QUESTION_ANSWERING, {"truncate": "question"}, "cuts nothing"),
        (HeadKind.MULTIPLE_CHOICE, {"template": "<cls>{text}<sep>"}, "has no {choice}"),
        (HeadKind.MULTIPLE_CHOICE, {"labels": ["a"]}, "has no labels"),
    ],
)
def test_a_template_must_have_what_its_answers_need(
    client: httpx.Client, kind: HeadKind, said: dict[str, Any], reason: str
) -> None:
    refused = push(client, "later", PrefixModel("bert", kind).checkpoint(), **said)
    assert refused.status_code == 422
    assert reason in refused.json()["error"]["message"]


def test_the_backbone_says_that_it_takes_them_and_how_pairs_are_written(client: httpx.Client) -> None:
    backbone = client.get("/v1/backbone").json()
    assert all(head["supported"] for head in backbone["heads"].values() if head["reason"] is None)
    assert backbone["heads"]["question-answering"]["supported"]
    assert backbone["heads"]["multiple-choice"]["supported"]
    assert backbone["spec"]["pair"] == "<cls>{first}<sep>{second}<sep>"
    assert (backbone["limits"]["max_rows_per_input"], backbone["limits"]["max_rows"]) == (128, 512)


def test_too_many_rows_are_a_400_that_names_the_setting(client: httpx.Client) -> None:
    assert push(client, "quiz", PrefixModel("bert", HeadKind.MULTIPLE_CHOICE).checkpoint()).status_code in (200, 201)
    inputs = {"question": "the plot", "choices": ["x"] * 129}
    refused = client.post("/v1/infer", json={"task_id": "quiz", "inputs": inputs})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "inputs"
    assert "limits.max_rows_per_input" in refused.json()["error"]["message"]
