"""OpenPrompt's SoftVerbalizer: a copy of the LM head whose last Linear became [classes, hidden], without a bias.

It reads the last hidden state where the answer stands: at the mask, or behind the text of a decoder. The copy has the
names of its model: `head.weight` where the LM head is one Linear; `dense`, `layer_norm`, `decoder` (RoBERTa, MPNet);
`predictions.transform.dense`, `.LayerNorm`, `predictions.decoder` (BERT, DeBERTa). Their `bias` of the whole vocabulary
is left behind by the change, and `head_last_layer` is the last Linear once more.
Source: thunlp/OpenPrompt, `openprompt/prompts/soft_verbalizer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prompt_store.formats.checkpoint import Reasons, shorten

PATH = "verbalizer"
_AGAIN = "head_last_layer.weight"
_LEFT_BEHIND = frozenset({"head.bias", "head.predictions.bias", "head.decoder.bias", "head.predictions.decoder.bias"})
_FORMS: tuple[dict[str, str], ...] = (  # a copy's layers -> ours
    {"head": PATH},
    {"head.dense": f"{PATH}.dense", "head.layer_norm": f"{PATH}.norm", "head.decoder": f"{PATH}.out_proj"},
    {
        "head.predictions.transform.dense": f"{PATH}.dense",
        "head.predictions.transform.LayerNorm": f"{PATH}.norm",
        "head.predictions.decoder": f"{PATH}.out_proj",
    },
)


def soft_head(tensors: Mapping[str, torch.Tensor], reasons: Reasons) -> dict[str, torch.Tensor]:
    """Return the head below `head.verbalizer`, or note why it cannot be read."""
    again = tensors.get(_AGAIN)
    found = {name: t for name, t in tensors.items() if name != _AGAIN and name not in _LEFT_BEHIND}
    layers = {name.rpartition(".")[0] for name in found}
    form = next((form for form in _FORMS if form.keys() == layers), None)
    if form is None:
        reasons.add(
            f"its SoftVerbalizer is {shorten(sorted(tensors))}; known are copies of the LM heads of BERT and RoBERTa, "
            "and one Linear"
        )
        return {}
    last = next(reversed(form))
    reasons.expect(
        f"{last}.bias" not in found and f"{last}.weight" in found,
        f"its SoftVerbalizer ends with {shorten(sorted(n for n in found if n.startswith(last)))}; expected one Linear "
        "without a bias",
    )
    reasons.expect(
        again is None or f"{last}.weight" not in found or torch.equal(again, found[f"{last}.weight"]),
        f"{_AGAIN} differs from {last}.weight, which is the same layer in a SoftVerbalizer",
    )
    return {f"head.{form[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": t for name, t in found.items()}
