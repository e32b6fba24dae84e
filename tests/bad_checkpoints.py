"""Folders as people really have them when something is wrong: half copied, mislabelled, hostile, or no prompt at all.

Each builder fills an empty folder and returns the words of a `push` for it. Sizes are those of `fakes.fake_spec`.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from saved_checkpoints import WIDTH, N, few_shot_file, lama_file, nemo, peft, prefix_model, write_json

Build = Callable[[Path], list[str]]
REFUSED_HERE, REFUSED_BY_SERVER = 2, 1


@dataclass(frozen=True)
class Bad:
    """What is wrong, how `push` ends, and what its message must tell: what was found, expected, and to be done."""

    build: Build
    code: int
    told: tuple[str, ...]


CASES: dict[str, Bad] = {}


def case(code: int, *told: str) -> Callable[[Build], Build]:
    """Register a builder under its own name."""

    def register(build: Build) -> Build:
        CASES[build.__name__] = Bad(build, code, told)
        return build

    return register


class Sketchy:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


@case(REFUSED_HERE, "empty folder", "where your training or download put")
def an_empty_folder(folder: Path) -> list[str]:
    return [str(folder)]


@case(REFUSED_HERE, "there is no", "nowhere", "holds: nothing")
def a_folder_that_is_not_there(folder: Path) -> list[str]:
    return [str(folder / "nowhere")]


@case(REFUSED_HERE, "README.md is not a checkpoint's file", ".safetensors", "folder")
def a_file_where_a_folder_is_expected(folder: Path) -> list[str]:
    (folder / "README.md").write_text("# my prompt")
    return [str(folder / "README.md")]


@case(REFUSED_HERE, "cannot be read", "symbolic link")
def a_link_that_leads_to_itself(folder: Path) -> list[str]:
    (folder / "loop").symlink_to(folder / "loop")
    return [str(folder / "loop")]


@case(REFUSED_HERE, "tokenizer's files", "tokenizer.json", "where the prompt was saved")
def a_tokenizer_alone(folder: Path) -> list[str]:
    write_json(folder / "tokenizer.json", version="1.0")
    write_json(folder / "tokenizer_config.json")
    return [str(folder)]


@case(REFUSED_HERE, "adapter_model.safetensors but no adapter_config.json", "copy it from")
def an_adapter_without_its_config(folder: Path) -> list[str]:
    words = peft(folder)
    (folder / "adapter_config.json").unlink()
    return words


@case(REFUSED_HERE, "neither adapter_model.safetensors nor adapter_model.bin", "README.md", "whole")
def a_config_without_its_weights(folder: Path) -> list[str]:
    words = peft(folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "README.md").write_text("")
    return words


@case(REFUSED_HERE, "adapter_config.json is not JSON", "line 1")
def a_config_that_is_not_json(folder: Path) -> list[str]:
    words = peft(folder)
    (folder / "adapter_config.json").write_text("{'peft_type': 'PROMPT_TUNING'}")
    return words


@case(REFUSED_BY_SERVER, "prompt is 16 wide", "fake", "needs 8", "another model")
def a_prompt_for_another_backbone(folder: Path) -> list[str]:
    return peft(folder, {"prompt_embeddings": torch.zeros(N, 2 * WIDTH)}, token_dim=2 * WIDTH)


@case(REFUSED_BY_SERVER, "LORA", "is not a soft prompt", "PREFIX_TUNING")
def a_lora(folder: Path) -> list[str]:
    tensors = {"base_model.model.h.0.attn.c_attn.lora_A.weight": torch.zeros(2, WIDTH)}
    return peft(folder, tensors, peft_type="LORA", r=2)


@case(REFUSED_HERE, "holds 2 adapters", "none is guessed", "second", "adapter_model.safetensors")
def two_adapters_in_one_folder(folder: Path) -> list[str]:
    (folder / "second").mkdir()
    peft(folder / "second")
    return peft(folder)


@case(REFUSED_HERE, "sub-folders do", "none is guessed", "first", "second")
def a_parent_of_adapters(folder: Path) -> list[str]:
    for name in ("first", "second"):
        (folder / name).mkdir()
        peft(folder / name)
    return [str(folder)]


@case(REFUSED_HERE, "2 files of weights", "name one of", "a.safetensors")
def two_files_without_names_we_know(folder: Path) -> list[str]:
    for name in ("a", "b"):
        save_file(prefix_model(), folder / f"{name}.safetensors")
    return [str(folder)]


@case(REFUSED_HERE, "asks to run", "system", "nothing is run", "save_file")
def a_pickle_with_code(folder: Path) -> list[str]:
    words = peft(folder)
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"prompt_embeddings": Sketchy()}, folder / "adapter_model.bin")
    return words


@case(REFUSED_HERE, "would grow from", "torch.save compresses nothing")
def a_compressed_bomb(folder: Path) -> list[str]:
    torch.save({"prompt_embeddings": torch.zeros(1 << 22)}, folder / "honest.pt")
    with zipfile.ZipFile(folder / "honest.pt") as honest, zipfile.ZipFile(folder / "prompt.pt", "w", 8) as bomb:
        for name in honest.namelist():
            bomb.writestr(name, honest.read(name))
    (folder / "honest.pt").unlink()
    return [str(folder / "prompt.pt")]


@case(REFUSED_HERE, "a tensor that claims", "[1099511627776, 8]", ".contiguous()")
def a_tensor_larger_than_its_storage(folder: Path) -> list[str]:
    torch.save({"embeds": torch.zeros(1).expand(1 << 40, WIDTH)}, folder / "prompt.pt")
    return [str(folder)]


@case(REFUSED_HERE, "spells over 300000 values", "not a dict of tensors")
def a_pickle_that_multiplies(folder: Path) -> list[str]:
    laughs: list[Any] = ["ha"] * 10
    for _ in range(40):
        laughs = [laughs] * 10  # ten to the power of 40 when it is spelled out
    torch.save({"prefix_encoder.weight": laughs}, folder / "pytorch_model.bin")
    return [str(folder)]


@case(REFUSED_HERE, "damaged", "downloaded or copied whole")
def a_list_of_parameters_that_is_not_as_long_as_it_says(folder: Path) -> list[str]:
    keys = torch.nn.ParameterList([torch.zeros(1, 2, N, 4)])
    keys._size = 1 << 62
    torch.save({"trainable_keys": keys}, folder / "cache.pt")
    return [str(folder)]


@case(REFUSED_HERE, "asks to run", "ParameterList", "nothing is run")
def a_list_of_parameters_where_no_cartridge_is(folder: Path) -> list[str]:
    torch.save(torch.nn.ParameterList([torch.zeros(N, WIDTH)]), folder / "pytorch_model.bin")
    return [str(folder)]


@case(REFUSED_HERE, "damaged archive", "downloaded or copied whole")
def a_truncated_archive(folder: Path) -> list[str]:
    nemo(folder / "prompt.nemo")
    file = folder / "prompt.nemo"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return [str(file)]


@case(REFUSED_HERE, "config.yaml spells over", "not a checkpoint's config")
def a_config_that_multiplies(folder: Path) -> list[str]:
    save_file({"embeds": torch.full((N, WIDTH), 0.1)}, folder / "prompt.safetensors")
    lines = ["a0: &a0 [ha, ha]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20))]
    (folder / "config.yaml").write_text("\n".join(lines))
    return [str(folder)]


@case(REFUSED_HERE, "asks to run", "pathlib", "save_file")
def a_ckpt_with_other_globals(folder: Path) -> list[str]:
    torch.save(lama_file(checkpoint_dir=Path("out")), folder / "epoch_5.ckpt")
    return [str(folder)]


@case(REFUSED_HERE, "is named .safetensors, but holds a PyTorch pickle", "rename it to adapter_model.bin")
def a_pickle_under_the_wrong_name(folder: Path) -> list[str]:
    words = peft(folder)
    torch.save({"prompt_embeddings": torch.zeros(N, WIDTH)}, folder / "adapter_model.safetensors")
    return words


@case(REFUSED_BY_SERVER, "prompt_embeddings is 8 wide", "needs 32", "belong together")
def two_adapters_with_their_configs_swapped(folder: Path) -> list[str]:
    return peft(folder, peft_type="PREFIX_TUNING")


@case(REFUSED_HERE, "half a download", "adapter_model.safetensors.incomplete", "Finish the download")
def half_a_download(folder: Path) -> list[str]:
    words = peft(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.safetensors.incomplete")
    return words


@case(REFUSED_HERE, "names 2 shards, of which 1 are not there", "model-00002", "Finish the download")
def a_shard_missing(folder: Path) -> list[str]:
    save_file(prefix_model(), folder / "model-00001-of-00002.safetensors")
    shards = {"prefix_encoder.embedding.weight": "model-00001-of-00002.safetensors"}
    weight_map = shards | {"classifier.weight": "model-00002-of-00002.safetensors"}
    write_json(folder / "model.safetensors.index.json", weight_map=weight_map)
    return [str(folder)]


@case(REFUSED_HERE, "git-lfs pointer", "git lfs pull")
def a_git_lfs_pointer(folder: Path) -> list[str]:
    words = peft(folder)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 2048\n"
    (folder / "adapter_model.safetensors").write_text(pointer)
    return words


@case(REFUSED_HERE, "0 bytes", "stopped before")
def an_empty_file(folder: Path) -> list[str]:
    words = peft(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return words


@case(REFUSED_HERE, "a web page", "download the file itself")
def a_saved_web_page(folder: Path) -> list[str]:
    words = peft(folder)
    (folder / "adapter_model.safetensors").write_text("<!doctype html><title>Sign in</title>")
    return words


@case(REFUSED_HERE, "is truncated", "declares", "downloaded or copied whole")
def a_truncated_safetensors_file(folder: Path) -> list[str]:
    words = peft(folder)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    return words


@case(REFUSED_HERE, "damaged", "downloaded or copied whole")
def a_truncated_pickle(folder: Path) -> list[str]:
    torch.save(prefix_model(), folder / "pytorch_model.bin")
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-200])
    return [str(folder)]


@case(REFUSED_BY_SERVER, "embeds is not finite", "training diverge")
def vectors_that_are_not_numbers(folder: Path) -> list[str]:
    return peft(folder, {"prompt_embeddings": torch.full((N, WIDTH), float("nan"))})


@case(REFUSED_HERE, "whole model without a soft prompt", "softmux serve --backbone", "bert.encoder")
def a_full_fine_tune(folder: Path) -> list[str]:
    save_file(
        {
            "bert.encoder.layer.0.output.dense.weight": torch.zeros(WIDTH, WIDTH),
            "classifier.weight": torch.zeros(2, WIDTH),
        },
        folder / "model.safetensors",
    )
    write_json(folder / "config.json", architectures=["BertForSequenceClassification"])
    return [str(folder)]


@case(REFUSED_HERE, "training's own state", "never opened")
def the_trainers_arguments(folder: Path) -> list[str]:
    (folder / "training_args.bin").write_bytes(pickle.dumps(Sketchy()))
    return [str(folder / "training_args.bin")]


@case(REFUSED_BY_SERVER, "manifest lists 2 labels", "head has 3 rows", "name each row")
def labels_that_are_not_the_heads(folder: Path) -> list[str]:
    head = {"base_model.score.weight": torch.full((3, WIDTH), 0.1)}
    return [*peft(folder, head, task_type="SEQ_CLS"), "--labels", "good,bad"]


@case(REFUSED_BY_SERVER, "soft", "4")
def a_template_without_its_soft_slots(folder: Path) -> list[str]:
    return [*peft(folder), "--template", "{text} It was"]


@case(REFUSED_BY_SERVER, "the prefix is 96 wide", "2 layers", "needs 32", "another model")
def a_prefix_for_six_layers(folder: Path) -> list[str]:
    save_file(prefix_model(6 * 2 * WIDTH), folder / "model.safetensors")
    write_json(folder / "config.json", architectures=["BertPrefixForSequenceClassification"])
    return [str(folder)]


@case(REFUSED_HERE, "does not say what the task answers", "classifier.weight [2, 8]", "--kind")
def a_prefix_without_its_config(folder: Path) -> list[str]:
    save_file(prefix_model(), folder / "model.safetensors")
    return [str(folder)]


@case(REFUSED_HERE, "trained for 3 tasks", "--task-ids all")
def a_prompt_of_several_tasks(folder: Path) -> list[str]:
    factors = {"prefix_task_cols": torch.ones(3, N, 1), "prefix_task_rows": torch.ones(3, 1, WIDTH)}
    return peft(folder, factors, peft_type="MULTITASK_PROMPT_TUNING")


@case(REFUSED_HERE, "which label has which words", "--label-words")
def a_p_tuning_file_without_label_words(folder: Path) -> list[str]:
    torch.save(lama_file(), folder / "epoch_5.ckpt")
    return [str(folder)]


@case(REFUSED_HERE, "where the text and the virtual tokens stand", "--template", "--label-words")
def a_few_shot_folder_alone(folder: Path) -> list[str]:
    torch.save(few_shot_file(), folder / "embeddings.pth")
    write_json(folder / "wrapper_config.json", task_name="rte", pattern_id=1)
    return [str(folder)]


@case(
    REFUSED_BY_SERVER,
    "training also changed the backbone",
    "Serve the backbone that was saved with it",
    "softmux serve --backbone",
)
def a_few_shot_prompt_on_another_backbone(folder: Path) -> list[str]:
    words = a_few_shot_folder_alone(folder)
    save_file({"transformer.wte.weight": torch.zeros(300, WIDTH)}, folder / "model.safetensors")
    label_words = '{"yes": "a", "no": "b"}'
    return [*words, "--template", "{text}<soft:1>", "--label-words", label_words]


@case(REFUSED_BY_SERVER, "training also changed the backbone")
def a_p_tuning_file_of_a_trained_backbone(folder: Path) -> list[str]:
    torch.save(lama_file(use_lm_finetune=True), folder / "epoch_5.ckpt")
    return [str(folder), "--label-words", '{"yes": "a", "no": "b"}']
