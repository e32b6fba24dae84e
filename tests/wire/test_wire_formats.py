"""What other training code saved for a decoder, published over HTTP as its file was, answers as its module does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from engine_cases import backbone_directory
from openprompt_cases import PtuningTemplate
from peft_cases import tiny_config
from prefix_cases import Feeding, LiAndLiang, NemoEncoder, TrainableCache, live_logits
from ptuning_cases import saved
from real_wire import served
from safetensors.torch import save
from tiny_tokenizers import gpt2_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel
from verbalizer_cases import ManualVerbalizer

from prompt_store.formats.flatten import flatten

TEXT = "a great film"
WORDS = {"good": [" good"], "bad": [" bad"]}
CONFIG = tiny_config("gpt2")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backbone_directory("gpt2", tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def model(backbone: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(backbone, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def client(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with served(backbone, tmp_path_factory.mktemp("house")) as opened:
        yield opened


def push(client: httpx.Client, task: str, loaded: object, config: object, **manifest: Any) -> httpx.Response:
    """Publish what a pickle held."""
    name = "decoder" if isinstance(loaded, torch.Tensor) else ""
    files = {"weights": save(flatten(loaded, name).tensors), "manifest": json.dumps(manifest).encode()}
    if config is not None:
        files["config"] = json.dumps(config).encode()
    return client.post(f"/v1/tasks/{task}/versions", files=files)


def scores(client: httpx.Client, task: str, field: str) -> dict[str, float]:
    answer = client.post("/v1/infer", json={"task_id": task, "inputs": {field: TEXT}})
    assert answer.status_code == 200, answer.text
    return {one["label"]: one["score"] for one in answer.json()["outputs"][0]["scores"]}


def live_scores(logits: torch.Tensor) -> dict[str, float]:
    words = [gpt2_tokenizer()(word)["input_ids"] for ones in WORDS.values() for word in ones]
    return dict(
        zip(
            WORDS,
            ManualVerbalizer([[[one] for one in ones] for ones in words]).probabilities(logits).tolist(),
            strict=True,
        )
    )


def ids(*texts: str) -> list[int]:
    return [token for text in texts for token in gpt2_tokenizer()(text)["input_ids"]]


PREFIX, CACHE, ENCODER = LiAndLiang(CONFIG, "mlp"), TrainableCache(CONFIG, 1), NemoEncoder(CONFIG, "lstm")


@pytest.mark.parametrize(
    ("module", "loaded", "config", "fmt"),
    [
        (PREFIX, saved(PREFIX), {"n_head": 4, "preseqlen": 5}, "prefix-tuning-original"),
        (CACHE, CACHE.saved(), None, "cartridges"),
        (ENCODER, ENCODER.prompt(), {"verbalizer": "{{text}}", "task_type": "CAUSAL_LM"}, "tgis"),
    ],
)
def test_in_front_of_the_text(
    client: httpx.Client, model: PreTrainedModel, module: Feeding, loaded: object, config: object, fmt: str
) -> None:
    published = push(client, fmt, loaded, config, label_words=WORDS)
    assert published.status_code == 201, published.text
    assert published.json()["format"] == fmt
    live = live_logits(model, module.prompt(), ids(TEXT))
    assert scores(client, fmt, "text") == pytest.approx(live_scores(live), abs=1e-5)


def test_nemos_layout_and_one_of_its_tasks(client: httpx.Client, model: PreTrainedModel) -> None:
    layout = {
        "taskname": "film",
        "prompt_template": "<|VIRTUAL_PROMPT_0|> Text: {review}<|VIRTUAL_PROMPT_1|> It was {label}",
        "virtual_token_splits": [2, 3],
        "answer_field": "label",
    }
    other = NemoEncoder(CONFIG, "mlp").saved(is_filled=True, task="book")["prompt_table"]
    tables = ENCODER.saved(is_filled=True, task="film")["prompt_table"] | other
    config = {"task_templates": [layout]}
    refused = push(client, "nemo", {"prompt_table": tables}, config, label_words=WORDS)
    assert (refused.status_code, "say which in the manifest: prompt_task" in refused.text) == (422, True)
    published = push(client, "nemo", {"prompt_table": tables}, config, label_words=WORDS, prompt_task="film")
    assert published.status_code == 201, published.text
    rows, embed = ENCODER.prompt(), model.get_input_embeddings()
    with torch.inference_mode():
        text, end = (embed(torch.tensor(ids(one))) for one in (f" Text: {TEXT}", " It was"))
        fed = torch.cat([rows[:2], text, rows[2:], end])[None]
        live = model(inputs_embeds=fed).logits[0, -1]
    assert scores(client, "nemo", "review") == pytest.approx(live_scores(live), abs=1e-5)


def test_openprompts_pieces_and_words(client: httpx.Client, model: PreTrainedModel) -> None:
    template = PtuningTemplate(model.get_input_embeddings(), 3, is_lstm=True)
    loaded = {"state_dict": {f"prompt_model.template.{name}": t for name, t in template.state_dict().items()}}
    config = {
        "freeze_plm": True,
        "verbalizer": {"classes": list(WORDS), "label_words": [["good"], ["bad"]], "prefix": " "},
    }
    published = push(client, "openprompt", loaded, config, template="<soft:1>{text_a}<soft:2> It was", max_length=100)
    assert published.status_code == 201, published.text
    row: Sequence[int] = [-1, *ids(TEXT), -2, -3, *ids(" It was")]
    live = template.logits(model, row, len(row) - 1)
    assert scores(client, "openprompt", "text_a") == pytest.approx(live_scores(live), abs=1e-5)


def test_openprompts_own_template_and_token_ids(client: httpx.Client, model: PreTrainedModel) -> None:
    template = PtuningTemplate(model.get_input_embeddings(), 3, is_lstm=False)
    words = ManualVerbalizer([[ids(" good"), ids(" bad film")], [ids(" bad")]], "mean")
    loaded = {"state_dict": {"template": template.state_dict(), "verbalizer": words.state_dict()}}
    config = {
        "freeze_plm": True,
        "template": '{"soft"} {"placeholder": "text_a"} {"soft": None, "duplicate": 2} It was {"mask"}.',
        "verbalizer": {"classes": list(WORDS), "multi_token_handler": "mean"},
    }
    published = push(client, "own-text", loaded, config)
    assert published.status_code == 201, published.text
    row: Sequence[int] = [-1, *ids(f" {TEXT}"), -2, -3, *ids(" It was")]
    live = words.probabilities(template.logits(model, row, len(row) - 1))
    expected = dict(zip(WORDS, live.tolist(), strict=True))
    assert scores(client, "own-text", "text_a") == pytest.approx(expected, abs=1e-5)


def test_prompts_of_other_backbones_are_refused_by_name(client: httpx.Client) -> None:
    for loaded, said in (
        ({"encoder.prompt.prompt.prompt": torch.ones(3, 32)}, "stands in front of a T5's encoder input"),
        ({"transformer.prefix_encoder.embedding.weight": torch.ones(3, 14336)}, "the prefix of ChatGLM2-6B or 3"),
        ({"encoder": torch.ones(3, 32)}, "encoder.pt goes in front of an encoder-decoder's encoder"),
    ):
        refused = push(client, "other", loaded, None)
        assert refused.status_code == 422
        assert said in refused.json()["error"]["message"]
