"""A T5 over HTTP: prompts published as PEFT saved them, texts whole and streamed, label words, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from engine_cases import backbone_directory
from peft import PeftModel
from peft_cases import load_peft, save_peft
from real_wire import push, scores, served
from safetensors.torch import load_file
from stack_cases import NUM_VIRTUAL, endless
from tiny_tokenizers import t5_tokenizer

from prompt_store.formats import Checkpoint

TEXT = "a good film"
PROMPTS = {"prompt": "PROMPT_TUNING", "prefix": "PREFIX_TUNING"}
NUM_NEW = 12


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    backbone = backbone_directory("t5", tmp_path_factory.mktemp("t5"))
    with served(backbone, tmp_path_factory.mktemp("house")) as opened:
        yield opened


@pytest.fixture(scope="module")
def tuned(client: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PeftModel]:
    """Publish a prompt of each method; return PEFT with it loaded."""
    models = {}
    for name, peft_type in PROMPTS.items():
        folder = save_peft("t5", peft_type, "SEQ_2_SEQ_LM", tmp_path_factory.mktemp(name), NUM_VIRTUAL)
        published = push(client, name, checkpoint(folder))
        assert published.status_code == 201, published.text
        assert (published.json()["kind"], published.json()["num_virtual_tokens"]) == ("generation", NUM_VIRTUAL)
        models[name] = load_peft("t5", folder)
        endless(models[name].base_model)
    return models


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(
        load_file(folder / "adapter_model.safetensors"), json.loads((folder / "adapter_config.json").read_bytes())
    )


def ask(client: httpx.Client, task: str, inputs: object = TEXT, **parameters: object) -> dict[str, Any]:
    body = {"task_id": task, "inputs": inputs, "parameters": {"max_new_tokens": NUM_NEW, "ignore_eos": True}}
    answer = client.post("/v1/infer", json=body | {"parameters": body["parameters"] | parameters})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("name", PROMPTS)
def test_a_text_is_what_peft_generates(client: httpx.Client, tuned: dict[str, PeftModel], name: str) -> None:
    tokenizer = t5_tokenizer()
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.inference_mode():
        wanted = tuned[name].generate(input_ids=ids, max_new_tokens=NUM_NEW, do_sample=False)[0, 1:]
    answer = ask(client, name)
    assert answer["outputs"][0]["text"].strip() == tokenizer.decode(wanted, skip_special_tokens=True).strip()
    assert answer["outputs"][0]["num_tokens"] == NUM_NEW
    assert answer["usage"]["virtual_tokens"] == NUM_VIRTUAL


def test_a_stream_says_what_the_whole_answer_says(client: httpx.Client, tuned: dict[str, PeftModel]) -> None:
    parameters = {"max_new_tokens": NUM_NEW, "ignore_eos": True, "stream": True, "temperature": 0.7, "seed": 4}
    body = {"task_id": "prefix", "inputs": TEXT, "parameters": parameters}
    with client.stream("POST", "/v1/infer", json=body) as response:
        data = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    whole = ask(client, "prefix", temperature=0.7, seed=4)
    assert "".join(token["text"] for token in data[:-1]) == whole["outputs"][0]["text"]
    assert data[-1]["outputs"] == whole["outputs"]


def test_tasks_share_steps_and_answer_as_alone(client: httpx.Client, tuned: dict[str, PeftModel]) -> None:
    asked = [
        {
            "task_id": name,
            "inputs": [TEXT, "bad", "the movie was not very good and"],
            "parameters": {"ignore_eos": True},
        }
        for name in (*PROMPTS, *PROMPTS)
    ]
    for body in asked:
        body["parameters"] = {"max_new_tokens": NUM_NEW, "ignore_eos": True}
    together = client.post("/v1/infer/batch", json={"requests": asked}).json()["results"]
    for body, found in zip(asked, together, strict=True):
        assert found["outputs"] == ask(client, str(body["task_id"]), body["inputs"])["outputs"]


def test_a_stop_string_ends_a_text(client: httpx.Client, tuned: dict[str, PeftModel]) -> None:
    text = ask(client, "prompt")["outputs"][0]["text"]
    stop = text.strip()[2:4]
    answer = ask(client, "prompt", stop=[stop])["outputs"][0]
    assert answer["text"] == text[: text.index(stop)]
    assert answer["finish_reason"] == "stop"


def test_label_words_are_read_in_the_decoder(client: httpx.Client, tuned: dict[str, PeftModel], tmp_path: Path) -> None:
    folder = save_peft("t5", "PROMPT_TUNING", "SEQ_2_SEQ_LM", tmp_path, NUM_VIRTUAL)
    published = push(
        client,
        "words",
        checkpoint(folder),
        kind="label-words",
        template=r"<soft:5>{text} it was \<extra_id_0>",
        label_words={"up": ["good"], "down": ["bad"]},
        decoder_text="<extra_id_0>",
    )
    assert published.status_code == 201, published.text
    tokenizer = t5_tokenizer()
    mask = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    ids = torch.tensor([tokenizer(f"{TEXT} it was <extra_id_0>")["input_ids"]])
    model = load_peft("t5", folder)
    with torch.inference_mode():
        logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[0, mask]])).logits[0, -1]
    words = [tokenizer.convert_tokens_to_ids(f"▁{word}") for word in ("good", "bad")]
    wanted = dict(zip(("up", "down"), logits[words].softmax(-1).tolist(), strict=True))
    assert scores(client, "words", TEXT) == pytest.approx(wanted, abs=1e-5)


def test_what_a_decoder_cannot_do_is_refused_by_name(client: httpx.Client, tuned: dict[str, PeftModel]) -> None:
    backbone = client.get("/v1/backbone").json()
    assert backbone["heads"]["generation"]["supported"]
    assert not backbone["heads"]["sequence-classification"]["supported"]
    assert all(backbone["methods"][name]["supported"] for name in ("prompt-tuning", "prefix-tuning"))
    tensors = {"embeds": torch.zeros(4, 32), "head.score.weight": torch.zeros(2, 32)}
    refused = push(client, "head", Checkpoint(tensors), labels=["a", "b"], kind="sequence-classification")
    assert refused.status_code == 422, refused.text
    assert "an encoder-decoder: use label words or generation" in refused.text
    halves = {f"decoder_kv.{half}": torch.zeros(2, 4, 5, 8) for half in ("key", "value")}
    refused = push(client, "layers", Checkpoint(halves), kind="generation")
    assert refused.status_code == 422, refused.text
    assert "decoder_kv.key has 2 layers" in refused.text


def test_a_client_that_leaves_gives_both_slots_back(client: httpx.Client, tuned: dict[str, PeftModel]) -> None:
    body = {"task_id": "prefix", "inputs": TEXT}
    parameters = {"max_new_tokens": 1500, "ignore_eos": True, "stream": True}
    with client.stream("POST", "/v1/infer", json=body | {"parameters": parameters}) as response:
        next(response.iter_lines())
    while "softmux_kv_cache_usage_ratio 0.0" not in client.get("/metrics").text:
        pass
    assert ask(client, "prefix")["outputs"]
