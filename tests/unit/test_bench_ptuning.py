"""The benchmark of baked prompts compares like with like: text by text, on every kind of backbone."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from engine_cases import backbone_directory
from peft_cases import tiny_model
from rich.console import Console

from bench.measuring.contender import Round
from bench.measuring.rounds import Timing
from bench.ptuning import ALLOWED, compare, record, setting, show
from bench.ptuning_contenders import Work, baked, live

LINES = ("a good film", "it was not a very bad movie and it is in new york", "great plot")

TIMINGS = [
    Timing("transformers, live", (Round(3, 0.3), Round(3, 0.6))),
    Timing("softmux, baked", (Round(3, 0.1), Round(3, 0.3))),
]


def directory_of(arch: str, folder: Path) -> Path:
    """Save a tiny backbone; `bare` is BERT without a head over the vocabulary."""
    directory = backbone_directory("bert" if arch == "bare" else arch, folder)
    if arch == "bare":
        tiny_model("bert", "BACKBONE")[0].save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("arch", "read", "width"), [("gpt2", "causal", 2), ("bert", "masked", 2), ("bare", "mean", 32)]
)
def test_baked_prompt_answers_as_its_encoder_does_live(arch: str, read: str, width: int, tmp_path: Path) -> None:
    work = Work(directory_of(arch, tmp_path / arch), 5, 1, LINES)
    assert work.read == read
    with live(work) as training_time:
        wanted = torch.stack(list(training_time()))
    with baked(work) as served:
        got = torch.stack(list(served()))
    assert wanted.shape == (len(LINES), width)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3  # the texts tell the answers apart
    found = compare(TIMINGS, [wanted, got], read != "mean")
    assert found.answer_error <= ALLOWED
    assert found.logit_error <= ALLOWED * found.logit_scale


def test_report_has_both_times_and_the_worst_error(tmp_path: Path) -> None:
    work = Work(directory_of("gpt2", tmp_path / "gpt2"), 5, 1, LINES)
    answers = [torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.5]])]
    found = compare(TIMINGS, answers, has_words=True)
    told = record(found, setting(work))
    assert (told["value"], told["peer_value"]) == (pytest.approx(200 / 3), pytest.approx(150))
    assert told["ratio"] == pytest.approx(2.5)
    assert told["logit_error"] == pytest.approx(0.5)
    console = Console(file=io.StringIO(), width=200)
    show(found, setting(work), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "TOO FAR" in printed
    assert "3 texts, 2+3 tokens" in printed
