"""Checkpoints that feed a decoder, by family and shape: the training-time module and what its code would save."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from openprompt_cases import PrefixTuningTemplate
from prefix_cases import ChatGLMPrefix, Feeding, LiAndLiang, NemoEncoder, TrainableCache
from ptuning_cases import saved

from prompt_store.formats import Checkpoint
from prompt_store.formats.flatten import flatten

Case = tuple[Feeding, Checkpoint]
OTHER_BACKBONES = {"chatglm": "chatglm"}  # a case whose name starts so is converted for that model type


def li_and_liang(shape: str) -> Callable[[Any], Case]:
    def build(config: Any) -> Case:
        module = LiAndLiang(config, shape)
        return module, Checkpoint(saved(module), {"preseqlen": 5, "n_head": config.num_attention_heads})

    return build


def cartridge(num_frozen: int, frozen_name: str = "frozen") -> Callable[[Any], Case]:
    def build(config: Any) -> Case:
        module = TrainableCache(config, num_frozen, frozen_name)
        return module, Checkpoint(flatten(module.saved()).tensors)

    return build


def nemo(kind: str, is_filled: bool = False) -> Callable[[Any], Case]:
    def build(config: Any) -> Case:
        module = NemoEncoder(config, kind)
        layout = {
            "taskname": "squad",
            "prompt_template": "<|VIRTUAL_PROMPT_0|> {text} {answer}",
            "virtual_token_splits": [5],
            "answer_field": "answer",
        }
        said = {"task_templates": [layout], "tensor_model_parallel_size": 1}
        return module, Checkpoint(flatten(module.saved(is_filled)).tensors, said)

    return build


def tgis(config: Any) -> Case:
    module = NemoEncoder(config, "embedding")  # rows are rows
    return module, Checkpoint(flatten(module.prompt(), "decoder").tensors, {"verbalizer": "{{input}}"})


def openprompt(config: Any) -> Case:
    module = PrefixTuningTemplate(config)
    return module, Checkpoint(flatten(module.state_dict()).tensors, {"freeze_plm": True})


def chatglm(is_projected: bool, is_second: bool) -> Callable[[Any], Case]:
    def build(config: Any) -> Case:
        module = ChatGLMPrefix(config, is_projected, is_second)
        return module, Checkpoint(saved(module, "transformer.prefix_encoder."))

    return build


CHATGLM = {
    "chatglm": chatglm(is_projected=False, is_second=False),
    "chatglm-projected": chatglm(is_projected=True, is_second=False),
    "chatglm-2-projected": chatglm(is_projected=True, is_second=True),
}
ROWS = {
    "nemo-table": nemo("mlp", is_filled=True),
    **{f"nemo-{kind}": nemo(kind) for kind in ("mlp", "deep", "lstm", "tpmlp", "embedding")},
    "tgis": tgis,
}
CARTRIDGES = {
    "cartridges-all-trained": cartridge(0),
    "cartridges-one-frozen": cartridge(1),
    "cartridges-older-names": cartridge(3, "fixed"),
}
CASES: Mapping[str, Mapping[str, Callable[[Any], Case]]] = {
    "gpt2": {
        **{
            f"prefix-tuning-{shape}": li_and_liang(shape)
            for shape in ("mlp", "deep", "flat", "cache", "embedding", "table")
        },
        **CARTRIDGES,
        **ROWS,
        "openprompt-prefix": openprompt,
    },
    "llama-gqa": {**CARTRIDGES, **ROWS, **CHATGLM},
    "qwen3": CARTRIDGES,
    "mistral-window": CARTRIDGES,
}
