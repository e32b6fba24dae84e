"""What a language model writes in the training process is what the server writes, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import backbone_directory
from transformers import AutoModelForCausalLM, AutoTokenizer
from wire_server import serving

from examples import compare, predictions, train_smollm2
from examples.batches import TokenRow
from examples.smollm2.answers import answers
from examples.smollm2.recipes import RECIPES
from examples.smollm2.rows import Exercise
from examples.smollm2.soft_prompts import prompt_tuning
from server.app import create_app
from server.settings import Settings

TEXTS = ("the film was great", "it is a bad movie.", "new york", "great plot, and not awful!", "a")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA that ends its texts as its tokenizer does."""
    folder = backbone_directory("llama-gqa", tmp_path_factory.mktemp("llama"))
    config = json.loads((folder / "config.json").read_text())
    ends = {"eos_token_id": AutoTokenizer.from_pretrained(folder).eos_token_id}
    (folder / "config.json").write_text(json.dumps(config | ends))
    (folder / "generation_config.json").write_text(json.dumps(ends))
    return folder


@pytest.fixture(scope="module")
def url(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = (tmp_path_factory.mktemp("compare") / "store").as_uri()
    settings = Settings(backbone=str(backbone), store=store, port=0, dtype="float32")
    with serving(create_app(settings), settings) as port:
        yield f"http://127.0.0.1:{port}"


def asked(tokenizer: Any, text: str) -> TokenRow:
    end = tokenizer.eos_token_id  # the whole answer, of which nothing is asked
    return TokenRow(tokenizer(RECIPES["tags"].text.replace("{text}", text))["input_ids"], [end], text)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers for an attribute of an older name
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # which PEFT's generation sends
def test_every_text_is_written_as_in_training(
    url: str, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32)
    prompt = prompt_tuning(model, tokenizer, "tag the plot: good or bad\n", "tiny-llama")
    rows = Exercise([], [], [asked(tokenizer, text) for text in TEXTS], None)
    answered = answers("tags", prompt, rows, tokenizer)
    train_smollm2.save(prompt, "tags", tmp_path / "tags")
    predictions.write(answered, tmp_path / "rows.jsonl")
    words = [str(tmp_path / "tags"), str(tmp_path / "rows.jsonl"), "--url", url]

    assert len({one.output["text"] for one in answered}) > 1
    assert compare.main(compare.parse(words)) == 0
    assert f"{len(TEXTS)} rows, {len(TEXTS)} equal; no scores" in capsys.readouterr().out
