"""Linear layers are multiplied in whatever way is fastest, and give what plain ones give."""

from __future__ import annotations

import pytest
import torch
from peft_cases import tiny_model
from torch import nn

from server.engine.backbone.linears import ExactLinear, WideLinear, WidenedLinear, quicken, quicken_output
from server.engine.backbone.reader import LogitReader

has_matrix_units = torch.cpu._is_amx_tile_supported()
on_slow_cpus = pytest.mark.skipif(has_matrix_units, reason="this CPU has matrix units for bfloat16: nothing is widened")


def stack(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.Sequential(nn.ReLU(), nn.Linear(24, 8, bias=False))).to(dtype).eval()


@torch.inference_mode()
def test_float32_weights_are_stored_by_input_and_give_the_same() -> None:
    layers, given = stack(torch.float32), torch.randn(300, 16)
    before = layers(given)
    quicken(layers, 0)
    assert [m.weight.stride()[0] for m in layers.modules() if isinstance(m, nn.Linear)] == [1, 1]
    torch.testing.assert_close(layers(given), before)


@on_slow_cpus
@torch.inference_mode()
@pytest.mark.parametrize(("more_bytes", "kind"), [(1 << 20, WideLinear), (0, WidenedLinear)])
@pytest.mark.parametrize("num_tokens", [3, 300])
def test_bfloat16_layers_are_computed_wide_and_rounded(more_bytes: int, kind: type, num_tokens: int) -> None:
    layers = stack(torch.bfloat16)
    given = torch.randn(num_tokens, 16).bfloat16()
    before = layers(given)
    quicken(layers, more_bytes)
    assert [type(m) for m in layers.modules() if isinstance(m, nn.Linear)] == [kind, kind]
    after = layers(given)
    assert after.dtype is torch.bfloat16
    torch.testing.assert_close(after, before, atol=1e-2, rtol=1e-2)


@on_slow_cpus
@torch.inference_mode()
def test_logits_are_written_in_float32_where_there_is_room() -> None:
    model, _ = tiny_model("llama-gqa", "CAUSAL_LM")
    model = model.to(torch.bfloat16)
    hidden = torch.randn(5, model.config.hidden_size).bfloat16()
    wanted = hidden.float() @ model.lm_head.weight.float().T
    assert quicken_output(model, 0) == 0
    assert quicken_output(model, 1 << 20) == wanted.shape[1] * hidden.shape[1] * 4
    assert isinstance(model.lm_head, ExactLinear)
    assert model.get_input_embeddings().weight.dtype is torch.bfloat16
    torch.testing.assert_close(model.lm_head(hidden), wanted)


@torch.inference_mode()
def test_a_head_of_several_layers_is_left_alone() -> None:
    model, _ = tiny_model("bert", "MASKED_LM")
    assert quicken_output(model.to(torch.bfloat16), 1 << 20) == 0


@on_slow_cpus
@torch.inference_mode()
@pytest.mark.parametrize("more_bytes", [0, 1 << 20])
def test_a_tied_t5_s_logits_are_not_rounded(more_bytes: int) -> None:
    model, _ = tiny_model("t5", "SEQ_2_SEQ_LM")
    model = model.to(torch.bfloat16)
    output, hidden = model.get_output_embeddings(), torch.randn(5, model.config.d_model).bfloat16()
    wanted = (hidden.float() * model.config.d_model**-0.5) @ output.weight.float().T
    quicken_output(model, more_bytes)
    quicken(model, more_bytes, output)

    best = LogitReader(model).logits(hidden).topk(4)

    torch.testing.assert_close(best.values, wanted.gather(1, best.indices))


def test_an_output_that_is_tied_stays_so() -> None:
    model, _ = tiny_model("t5", "SEQ_2_SEQ_LM")
    quicken(model, 0, model.get_output_embeddings())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
