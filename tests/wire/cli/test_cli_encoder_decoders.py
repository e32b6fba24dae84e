"""`softmux push` of prompts for T5 and BART: what is sent, and what is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_stub import Canned, Softmux, Stub
from safetensors.torch import save_file
from saved_checkpoints import WIDTH, N, peft, write_json
from sent_checkpoints import REPORT, ROUTE, Sent, pushed
from seq2seq_cases import BART
from tiny_archs import tiny_config

T5 = {"is_causal": False, "fingerprint": {"arch": "a" * 64, "weights": "b" * 64}, "spec": {"num_decoder_layers": 3}}


@pytest.fixture(autouse=True)
def answers(stub: Stub) -> None:
    stub.on(ROUTE, Canned(201, REPORT))
    stub.on("GET /v1/backbone", Canned(200, T5))


def test_a_prefix_store_of_tgis_for_an_encoder_decoder(stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
    torch.save(torch.ones(N, WIDTH), tmp_path / "encoder.pt")
    torch.save(torch.ones(N + 2, WIDTH), tmp_path / "decoder.pt")
    (tmp_path / "config.yml").write_text('verbalizer: "{{input}}"\ntask_type: SEQ_2_SEQ_LM\n')

    pushed(softmux, tmp_path)

    sent = Sent(stub)
    assert {name: len(tensor) for name, tensor in sent.tensors.items()} == {"encoder": N, "decoder": N + 2}
    assert sent.config["task_type"] == "SEQ_2_SEQ_LM"


def test_a_prefix_of_barts_three_attentions(stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
    _, checkpoint = BART["mlp"](tiny_config("bart"))
    torch.save(dict(checkpoint.tensors), tmp_path / "pytorch_model.bin")
    write_json(tmp_path / "config.json", **checkpoint.config or {})

    pushed(softmux, tmp_path)

    assert Sent(stub).tensors.keys() == checkpoint.tensors.keys()
    told = softmux("inspect", str(tmp_path), "--offline", "--json").json
    assert told["family"] == "prefix-tuning-original"
    assert "BART's three prefixes" in told["becomes"]


def test_a_peft_prompt_of_an_encoder_decoder(stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
    rows = {"prompt_embeddings": torch.ones(2 * N, WIDTH)}
    peft(tmp_path, rows, task_type="SEQ_2_SEQ_LM", num_transformer_submodules=2, revision=None)

    pushed(softmux, tmp_path)

    assert Sent(stub).tensors["prompt_embeddings"].shape == (2 * N, WIDTH)
    assert softmux("inspect", str(tmp_path), "--offline", "--json").json["kind"] == "generation"


def test_an_old_peft_prompt_of_an_encoder_decoder_asks_whose_answer_is_wanted(
    stub: Stub, softmux: Softmux, tmp_path: Path
) -> None:
    peft(tmp_path, {"prompt_embeddings": torch.ones(2 * N, WIDTH)}, task_type="SEQ_2_SEQ_LM")

    refused = softmux("push", str(tmp_path), "--task", "t")
    pushed(softmux, tmp_path, "--set", "peft_decoder=training")

    assert refused.code == 2
    assert "--set peft_decoder=training" in refused.err
    assert Sent(stub).manifest == {"peft_decoder": "training"}


def test_a_whole_t5_without_a_prompt_stays_here(softmux: Softmux, tmp_path: Path) -> None:
    names = ("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight", "decoder.final_layer_norm.weight")
    save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "model.safetensors")

    ended = softmux("push", str(tmp_path), "--task", "t")

    assert ended.code == 2
    assert "a whole model without a soft prompt" in ended.err
