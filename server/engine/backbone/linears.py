"""Linear layers as a CPU multiplies them fastest. The same products, the same rounding of what comes out.

Float32 weights are stored input by input: a step of few tokens is then multiplied 1.4 to 1.7 times as fast. A CPU
without bfloat16 matrix units (AMX) multiplies bfloat16 at half the pace of float32, so there inputs and weights are
widened, which changes no product; results are rounded to bfloat16 as ever.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

MIN_TOKENS = 128  # from here on widening a weight for one product alone pays


def quicken_output(model: PreTrainedModel, more_bytes: int) -> int:
    """Write logits in float32 where a CPU multiplies bfloat16 slower, if that takes at most `more_bytes`; return them.

    A head with layers of its own before its last is left alone: they would have to be as exact.
    """
    output = model.get_output_embeddings()
    num_bytes = 4 * output.weight.numel() if isinstance(output, nn.Linear) else 0
    is_alone = type(output) is nn.Linear and any(child is output for child in model.children())
    if not is_alone or not _is_slow(output) or num_bytes > more_bytes:
        return 0
    model.set_output_embeddings(ExactLinear.of(output))
    return num_bytes


def quicken(base: nn.Module, more_bytes: int, output: nn.Module | None = None) -> None:
    """Change the linear layers below `base`, if they are on a CPU; wide weights may take `more_bytes` of memory.

    `output` is left as it is: T5's stands below its base too, may be tied, and its logits are never rounded.
    """
    linears = [module for module in base.modules() if type(module) is nn.Linear and module is not output]
    for module in linears:
        if module.weight.device.type == "cpu" and module.weight.dtype is torch.float32:
            module.weight = _by_input(module.weight)
    slow = [module for module in linears if _is_slow(module)]
    is_kept_wide = sum(module.weight.nbytes for module in slow) <= more_bytes
    made = {module: _wide(module) if is_kept_wide else WidenedLinear.of(module) for module in slow}
    for parent in list(base.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and child in made:
                setattr(parent, name, made[child])


def _is_slow(module: nn.Linear) -> bool:
    is_narrow = module.weight.device.type == "cpu" and module.weight.dtype is torch.bfloat16
    return is_narrow and not torch.cpu._is_amx_tile_supported()


class ExactLinear(nn.Linear):
    """A linear layer of bfloat16 inputs that holds its weights in float32 and rounds nothing."""

    @classmethod
    def of(cls, module: nn.Linear) -> ExactLinear:
        """Return the same layer with weights of its own."""
        made = cls(module.in_features, module.out_features, module.bias is not None, device="meta")
        made.weight = nn.Parameter(module.weight.detach().float(), requires_grad=False)
        made.bias = None if module.bias is None else nn.Parameter(module.bias.detach().float(), requires_grad=False)
        return made

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return float32."""
        return F.linear(given.float(), self.weight, self.bias)


class WideLinear(nn.Linear):
    """A linear layer of bfloat16 inputs and outputs that holds its weights in float32."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return what a bfloat16 layer returns."""
        return F.linear(given.float(), self.weight, self.bias).bfloat16()


class WidenedLinear(nn.Linear):
    """A linear layer in bfloat16 that widens its weights for each product of many tokens, and holds nothing more."""

    @classmethod
    def of(cls, module: nn.Linear) -> WidenedLinear:
        """Return the same layer, sharing its weights."""
        made = cls(module.in_features, module.out_features, module.bias is not None, device="meta")
        made.weight, made.bias = module.weight, module.bias
        return made

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return what a bfloat16 layer returns."""
        if given.numel() < MIN_TOKENS * self.in_features:
            return F.linear(given, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.float()
        return F.linear(given.float(), self.weight.float(), bias).bfloat16()


def _wide(module: nn.Linear) -> WideLinear:
    made = WideLinear(module.in_features, module.out_features, module.bias is not None, device="meta")
    made.weight = _by_input(module.weight.float())
    made.bias = None if module.bias is None else nn.Parameter(module.bias.float(), requires_grad=False)
    return made


def _by_input(weight: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().t().contiguous().t(), requires_grad=False)
