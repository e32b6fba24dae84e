"""On a bfloat16 backbone nothing is rounded that need not be: best tokens, label words, scores multiplied out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import backbone_directory, peft_artifact
from fidelity.__main__ import main
from fidelity.agreement.measuring import Agreement, Half, measure
from fidelity.agreement.prompt import Peer, Prompt
from fidelity.agreement.report import HALF, half_section, lines_of, section_of, totals, with_section
from fidelity.agreement.tiny import tiny_prompts

from prompt_store.artifact import Artifact
from prompt_store.manifest import PublisherManifest
from server.engine.backbone.backbone import Backbone
from server.engine.backbone.loading import load_parts
from server.engine.backbone.reader import NUM_REFINED
from server.engine.kernels.scores import LayerRules, attend_explicit

NUM_ROWS = 40


@pytest.fixture(scope="module", params=["llama-gqa", "bert", "deberta", "t5", "bart"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    directory = backbone_directory(request.param, tmp_path_factory.mktemp("backbone"))
    return Backbone(load_parts(str(directory), torch.bfloat16, torch.device("cpu")))


@torch.inference_mode()
def exact_logits(backbone: Backbone, hidden: torch.Tensor) -> torch.Tensor:
    """Read every column as the same model would in float32."""
    assert backbone.reader is not None
    return backbone.reader.columns(hidden, torch.arange(backbone.shape.vocab_size))


@torch.inference_mode()
def test_best_tokens_are_told_apart(backbone: Backbone) -> None:
    assert backbone.reader is not None
    hidden = torch.randn(NUM_ROWS, backbone.shape.hidden_size, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = exact_logits(backbone, hidden)
    found = backbone.reader.logits(hidden)
    torch.testing.assert_close(found.topk(3).values, exact.topk(3).values)
    assert torch.equal(found.argmax(-1), exact.argmax(-1))
    assert not torch.equal(found, exact)  # the others stay as the backbone rounds them


@torch.inference_mode()
def test_a_rows_logits_depend_on_no_neighbour(backbone: Backbone) -> None:
    assert backbone.reader is not None
    hidden = torch.randn(3, backbone.shape.hidden_size, generator=torch.Generator().manual_seed(1)).bfloat16()
    found, alone = backbone.reader.logits(hidden), backbone.reader.logits(hidden[:1])
    assert int((found[0] - alone[0]).abs().gt(1e-4).sum()) <= backbone.shape.vocab_size - NUM_REFINED
    torch.testing.assert_close(found[0].topk(3).values, alone[0].topk(3).values)


def test_scores_multiplied_out_are_not_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = ((torch.randn(2, 4, 9, 8, generator=generator) * 3).bfloat16() for _ in range(3))
    rules = LayerRules(scaling=8**-0.5, softcap=50.0)
    found = attend_explicit(q, k, v, None, rules)
    exact = attend_explicit(q.float(), k.float(), v.float(), None, rules)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())


def test_a_few_rows_are_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Fidelity\n\n## Served\n\n| a |\n")
    for _ in range(2):
        assert main(["--bfloat16", "--arch", "gpt2", "--rows", "3", "--page", str(page)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 tiny prompts, 24 answers: softmux keeps ")
    assert page.read_text().count("| tiny | gpt2 | PEFT PREFIX_TUNING, next token | 12 | 12 | ") == 1
    assert page.read_text().endswith("\n\n## Served\n\n| a |\n")


def test_what_is_written_is_measured_too(tmp_path: Path) -> None:
    prompt = next(tiny_prompts(tmp_path, 4, ["gpt2"]))
    writing = replace(
        prompt,
        artifact=lambda spec: peft_artifact(tmp_path / "gpt2-PROMPT_TUNING", spec, PublisherManifest()),
        reading=None,
        num_new=5,
    )

    agreement = measure(writing, is_half=True)

    assert agreement.num_answers == 20
    assert agreement.is_exact
    assert agreement.softmux is not None
    assert agreement.peer is not None


def test_a_line_takes_the_place_of_its_older_self() -> None:
    page = with_section("# Fidelity\n\n## Served\n", HALF, half_section(lines_of("", [measured("a", 7, 6)])))
    lines = lines_of(page, [measured("b", 5, 9), measured("a", 8, 8)])
    assert [one.counts for one in lines] == [(10, 8, 8), (10, 5, 9)]
    assert list(totals(lines)) == [
        "2 real prompts, 20 answers: softmux keeps 65.00%, the training code 85.00%; "
        "softmux keeps more on 0 of the prompts, fewer on 1"
    ]
    assert "| a | backbone | method | 1 | 10 | 7 | 1.00% | 6 |  |" in section_of(page, HALF)


def measured(name: str, ours: int, theirs: int) -> Agreement:
    prompt = Prompt(name, "backbone", "method", "PEFT", Path(), _no_artifact, _no_peer, [(1,)])
    return Agreement(prompt, 10, 10, 0.0, Half(ours, 0.01), Half(theirs, None))


def _no_artifact(_: object) -> Artifact:
    raise NotImplementedError


def _no_peer(_: torch.dtype) -> Peer:
    raise NotImplementedError
