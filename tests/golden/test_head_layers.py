"""Heads with layers before the last one read as PEFT's own forward pass does, alone and in a mixed step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_cases import open_engine, peft_artifact
from fidelity.case import Refused, Served
from fidelity.measuring import measure
from fidelity.peft_family import peft_cases
from peft_cases import save_peft, spec_of
from safetensors.torch import load_file

from prompt_store.manifest import PublisherManifest

HEADS = {"sequence classification", "token classification", "question answering"}


@pytest.mark.parametrize("arch", ["distilbert", "modernbert", "modernbert-mean", "nomic-bert", "jina-v3"])
def test_a_head_is_read_with_every_layer(arch: str, tmp_path: Path) -> None:
    engine = open_engine(arch, tmp_path / arch)
    mine = [case for case in peft_cases(arch, tmp_path) if case.family == "PEFT PROMPT_TUNING" and case.head in HEADS]
    outcomes = {cell.head: cell.outcome for cell in measure(engine, arch, mine)}
    assert [head for head, outcome in outcomes.items() if isinstance(outcome, Refused)] == []
    served = {head: outcome.worst for head, outcome in outcomes.items() if isinstance(outcome, Served)}
    assert served.keys() >= {"sequence classification", "token classification"}
    assert [head for head, worst in served.items() if not worst <= 1e-4] == []


@pytest.mark.parametrize("peft_type", ["P_TUNING", "P_TUNING+LSTM"])
def test_an_encoder_saved_with_the_head_is_not_run_again(peft_type: str, tmp_path: Path) -> None:
    """PEFT's `modules_to_save=["head"]` also finds its own `mlp_head`."""
    saved = save_peft("modernbert", peft_type, "SEQ_CLS", tmp_path, modules_to_save=["head"])
    tensors = load_file(saved / "adapter_model.safetensors")
    assert any(name.startswith("prompt_encoder.") for name in tensors)
    artifact = peft_artifact(saved, spec_of("modernbert", head_pool="cls"), PublisherManifest())
    assert torch.equal(artifact.tensors["embeds"], tensors["prompt_embeddings"])


def test_a_prediction_head_that_nobody_has_is_asked_for(tmp_path: Path) -> None:
    """A decoder's files have it by another name, so training began it afresh."""
    engine = open_engine("modernbert-decoder", tmp_path / "backbone")
    assert not engine.spec.has_prediction_head
    assert open_engine("modernbert", tmp_path / "encoder").spec.has_prediction_head
