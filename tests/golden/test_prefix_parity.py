"""What other training code put in front of a decoder answers as its module does live on the same row, in float32.

Every comparison is made alone and in one mixed step with the rows of all the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from engine_cases import as_label_words, load_request, open_engine, random_ids, row_of
from openprompt_cases import PrefixTuningTemplate
from parity import assert_within
from peft_cases import tiny_config
from prefix_cases import ChatGLMPrefix, Feeding, LiAndLiang, N, NemoEncoder, TrainableCache, live_logits
from ptuning_cases import saved
from transformers import AutoModelForCausalLM

from prompt_store.artifact import Artifact
from prompt_store.formats import Checkpoint, convert
from prompt_store.formats.flatten import flatten
from prompt_store.manifest import PublisherManifest
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.types import SamplingParams

TOLERANCE = 1e-4  # of the logits' scale
LENGTHS = (1, 5, 13, 24)  # on both sides of Mistral's window of 8
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


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Engine, Any]]:
    @cache
    def opened(arch: str) -> tuple[Engine, Any]:
        directory = tmp_path_factory.mktemp(arch)
        engine = open_engine(arch, directory)
        return engine, AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()

    return opened


@pytest.mark.parametrize("arch", CASES)
def test_alone_and_mixed(engine_of: Callable[[str], tuple[Engine, Any]], arch: str) -> None:
    engine, model = engine_of(arch)
    bringing = Bringing(engine._backbone)
    rows, live, names = [], [], []
    for seed, (name, build) in enumerate(CASES[arch].items()):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module, checkpoint = build(tiny_config(arch))
        spec = replace(engine.spec, model_type=OTHER_BACKBONES.get(name.partition("-")[0], engine.spec.model_type))
        artifact = Artifact.from_bytes(convert(checkpoint, PublisherManifest(), spec).artifact.to_bytes())
        offset = artifact.manifest.text_position_offset
        request = load_request(name, as_label_words(artifact))
        resident = bringing.bring(request, bringing.part_keys(request), {}).resident
        for length in LENGTHS:
            ids = random_ids(length, seed)
            rows.append(RunningRow(resident, row_of(request, ids), SamplingParams(), engine.spec.vocab_size))
            live.append(live_logits(model, module.prompt(), ids, N if offset is None else offset))
            names.append(name)
    for name, row, result, theirs in zip(names, rows, engine._stepper.run(rows), live, strict=True):
        assert_within(result, theirs, TOLERANCE, f"{name} on {arch}")
        assert_within(engine._stepper.run([row])[0], theirs, TOLERANCE, f"{name} on {arch}")
