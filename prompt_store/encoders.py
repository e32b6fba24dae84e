"""The encoders that training puts behind a soft prompt's table, run once at conversion: a BiLSTM and an MLP.

Float32, in eval, without dropout and gradients; every size is read from the tensors. Knows no family of checkpoints.
Sources: Liu et al. 2021 (P-Tuning), section 3.2; Li and Liang 2021 (Prefix-Tuning), section 4.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal

import torch
from torch import nn

from prompt_store.errors import CheckpointError

Activation = Literal["relu", "tanh", "gelu-tanh"]
_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu-tanh": partial(nn.functional.gelu, approximate="tanh"),
}
_LAYER_NAME = re.compile(r"([0-9]{1,2})\.(?:weight|bias)")
_LSTM_NAME = re.compile(r"(?:weight|bias)_(?:ih|hh)_l([0-9]{1,2})(?:_reverse)?")
_Shapes = dict[str, tuple[int, ...]]
_MAX_ENTRIES = 1 << 27  # of one layer's output: 512 MiB, more than any artifact may have


@torch.no_grad()
def run_mlp(inputs: torch.Tensor, tensors: Mapping[str, torch.Tensor], activation: Activation) -> torch.Tensor:
    """Return [rows, out] of inputs [rows, in] through Linear `0`, the activation, Linear `2`, and so on to the last.

    `tensors` has the names of a `torch.nn.Sequential`: `0.weight`, `0.bias`, `2.weight`, `2.bias`, and `4.`, `6.` where
    it is deeper. Raises CheckpointError with every misfit.
    """
    last = max((int(found[1]) for name in tensors if (found := _LAYER_NAME.fullmatch(name))), default=2)
    layers = range(0, max(last, 2) + 1, 2)
    shapes = dict(_mlp_shapes(inputs.shape[-1], tensors, layers))
    _expect_shapes("MLP", tensors, shapes)
    _expect_affordable("MLP", len(inputs), max(shape[0] for shape in shapes.values()))
    hidden = inputs.float()
    for layer in layers:
        hidden = _linear(_ACTIVATIONS[activation](hidden) if layer else hidden, tensors, str(layer))
    return hidden


@torch.no_grad()
def run_bilstm(inputs: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return [rows, 2 * hidden] of inputs [rows, in], read as one sequence by a bidirectional LSTM.

    `tensors` has the names of `torch.nn.LSTM`. Raises CheckpointError with every misfit.
    """
    hidden = _columns(tensors.get("weight_hh_l0"))
    layers = max((int(found[1]) + 1 for name in tensors if (found := _LSTM_NAME.fullmatch(name))), default=1)
    _expect_shapes("LSTM", tensors, dict(_lstm_shapes(inputs.shape[-1], hidden, layers)))
    _expect_affordable("LSTM", len(inputs), 4 * hidden)
    with torch.device("meta"):  # draws no random weights
        lstm = nn.LSTM(inputs.shape[-1], hidden, layers, batch_first=True, bidirectional=True)
    lstm.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    output: torch.Tensor = lstm.eval()(inputs.float()[None])[0][0]
    return output


def run_prompt_encoder(
    table: torch.Tensor, lstm: Mapping[str, torch.Tensor], mlp: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Return the virtual tokens [rows, E] of P-Tuning v1: MLP(BiLSTM(table)), or MLP(table) without an LSTM.

    Raises CheckpointError with every misfit.
    """
    return run_mlp(run_bilstm(table, lstm) if lstm else table, mlp, "relu")


def _mlp_shapes(
    width: int, tensors: Mapping[str, torch.Tensor], layers: range
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield weights and biases of every layer: each takes what the one before it gives."""
    for layer in layers:
        out = _rows(tensors.get(f"{layer}.weight"))
        yield f"{layer}.weight", (out, width)
        yield f"{layer}.bias", (out,)
        width = out


def _lstm_shapes(width: int, hidden: int, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the four gates' weights and biases of every layer, both ways."""
    for layer in range(layers):
        for way in ("", "_reverse"):
            yield f"weight_ih_l{layer}{way}", (4 * hidden, width if layer == 0 else 2 * hidden)
            yield f"weight_hh_l{layer}{way}", (4 * hidden, hidden)
            yield f"bias_ih_l{layer}{way}", (4 * hidden,)
            yield f"bias_hh_l{layer}{way}", (4 * hidden,)


def _linear(inputs: torch.Tensor, tensors: Mapping[str, torch.Tensor], layer: str) -> torch.Tensor:
    return nn.functional.linear(inputs, tensors[f"{layer}.weight"].float(), tensors[f"{layer}.bias"].float())


def _expect_shapes(what: str, tensors: Mapping[str, torch.Tensor], expected: _Shapes) -> None:
    faults = [f"{name[:80]!r} has no place in the encoder's {what}" for name in sorted(tensors.keys() - expected)[:8]]
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            faults.append(f"the encoder's {what} has no {name}")
        elif tuple(tensor.shape) != shape or 0 in shape:
            faults.append(f"{name} of the encoder's {what} has shape {list(tensor.shape)}; expected {list(shape)}")
        elif not tensor.is_floating_point():
            faults.append(f"{name} of the encoder's {what} holds {tensor.dtype}; expected floating point")
    if faults:
        raise CheckpointError(*faults[:12])


def _expect_affordable(what: str, rows: int, width: int) -> None:
    """A few bytes of table and weights can ask for more memory than there is."""
    if rows * width > _MAX_ENTRIES:
        raise CheckpointError(
            f"the encoder's {what} would make {rows} rows of {width} numbers; at most {_MAX_ENTRIES} are made"
        )


def _rows(weight: torch.Tensor | None) -> int:
    return 0 if weight is None or weight.ndim != 2 else int(weight.shape[0])


def _columns(weight: torch.Tensor | None) -> int:
    return 0 if weight is None or weight.ndim != 2 else int(weight.shape[1])
