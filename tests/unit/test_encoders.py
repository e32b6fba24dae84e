from __future__ import annotations

import pytest
import torch
from ptuning_cases import FewShotEncoder, LamaEncoder, PrefixEncoder, saved

from prompt_store.encoders import run_bilstm, run_mlp, run_prompt_encoder
from prompt_store.errors import CheckpointError

ROWS, WIDTH = 6, 8


def parts(encoder: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(name): tensor for key, tensor in saved(encoder).items() if key.startswith(name)}


def test_projection_is_that_of_its_module() -> None:
    torch.manual_seed(0)
    encoder = PrefixEncoder(layers=2, hidden=WIDTH, is_projected=True)
    found = run_mlp(encoder.embedding.weight.detach(), parts(encoder, "trans."), "tanh")
    torch.testing.assert_close(found, encoder(torch.arange(5)).detach(), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("encoder", [LamaEncoder(ROWS, WIDTH), FewShotEncoder(ROWS, WIDTH)], ids=["lama", "few-shot"])
def test_sizes_come_from_the_tensors(encoder: LamaEncoder | FewShotEncoder) -> None:
    table = encoder.embedding if isinstance(encoder, LamaEncoder) else encoder.prompt_embeddings
    found = run_prompt_encoder(table.weight.detach(), parts(encoder, "lstm_head."), parts(encoder, "mlp_head."))
    torch.testing.assert_close(found, encoder().detach(), atol=1e-5, rtol=0.0)
    assert not found.is_inference()  # it outlives the conversion
    assert not found.requires_grad


def test_half_precision_is_computed_in_float32() -> None:
    encoder = LamaEncoder(ROWS, WIDTH).bfloat16()
    found = run_prompt_encoder(
        encoder.embedding.weight.detach(), parts(encoder, "lstm_head."), parts(encoder, "mlp_head.")
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, encoder.float()().detach(), atol=1e-5, rtol=0.0)


def test_random_numbers_of_the_process_are_left_alone() -> None:
    encoder = LamaEncoder(ROWS, WIDTH)
    before = torch.get_rng_state()
    run_bilstm(encoder.embedding.weight.detach(), parts(encoder, "lstm_head."))
    assert torch.equal(torch.get_rng_state(), before)


def test_few_bytes_do_not_ask_for_all_memory() -> None:
    huge = {
        "0.weight": torch.ones(1, 1),
        "0.bias": torch.ones(1),
        "2.weight": torch.ones(1, 1),
        "2.bias": torch.ones(1),
    }
    huge = {
        name: tensor.expand(1 << 20, *tensor.shape[1:]) if name[0] == "2" else tensor for name, tensor in huge.items()
    }
    with pytest.raises(CheckpointError, match="would make 4096 rows of 1048576 numbers"):
        run_mlp(torch.ones(4096, 1), huge, "tanh")
    wide = {name: torch.ones(shape) for name, shape in (("weight_hh_l0", (4, 1)), ("weight_ih_l0", (4, 1)))}
    biases = {f"bias_{kind}_l0": torch.ones(4) for kind in ("ih", "hh")}
    both_ways = {name + way: tensor for name, tensor in (wide | biases).items() for way in ("", "_reverse")}
    with pytest.raises(CheckpointError, match="LSTM would make 40000000 rows of 4"):
        run_bilstm(torch.ones(1, 1).expand(40_000_000, 1), both_ways)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"weight_hh_l0": None}, "no weight_hh_l0"),
        ({"weight_ih_l1": torch.zeros(16, 5)}, r"weight_ih_l1 .* \[16, 5\]; expected \[16, 8\]"),
        ({"bias_ih_l0": torch.zeros(16, dtype=torch.int64)}, "floating point"),
        ({"weight_ih_l7": torch.zeros(16, 8)}, "no weight_ih_l2"),
        ({"stranger": torch.zeros(1)}, "'stranger' has no place"),
    ],
)
def test_misfits_are_named(changes: dict[str, torch.Tensor | None], match: str) -> None:
    encoder = LamaEncoder(ROWS, WIDTH)
    tensors = {name: t for name, t in (parts(encoder, "lstm_head.") | changes).items() if t is not None}
    with pytest.raises(CheckpointError, match=match):
        run_bilstm(encoder.embedding.weight.detach(), tensors)
