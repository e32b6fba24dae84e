from __future__ import annotations

import pytest
import torch

from prompt_store.weight_digests import group_digests

WEIGHTS = {
    "embeddings.word_embeddings.weight": torch.arange(6.0).view(2, 3),
    "embeddings.LayerNorm.weight": torch.ones(3),
    "encoder.layer.0.output.dense.bias": torch.zeros(3),
    "encoder.layer.10.output.dense.bias": torch.zeros(3),
    "encoder.albert_layer_groups.0.albert_layers.0.ffn.bias": torch.zeros(3),
    "embeddings_project.weight": torch.ones(3),
}


def digests(dtype: str = "float32", **changes: torch.Tensor) -> dict[str, str]:
    return group_digests({**WEIGHTS, **changes}.items(), dtype)


def test_groups_are_the_embeddings_each_layer_and_the_rest() -> None:
    assert list(digests()) == [
        "embeddings",
        "embeddings_project",
        "encoder.albert_layer_groups.0",
        "encoder.layer.0",
        "encoder.layer.10",
    ]


@pytest.mark.parametrize("name", WEIGHTS)
def test_one_entry_changes_its_group_alone(name: str) -> None:
    other = WEIGHTS[name].clone()
    other.view(-1)[0] += 1e-4
    before, after = digests(), digests(**{name: other})
    assert len([group for group in before if before[group] != after[group]]) == 1


def test_shape_and_name_count_too() -> None:
    assert digests()["embeddings"] != digests(**{"embeddings.LayerNorm.weight": torch.ones(3, 1)})["embeddings"]
    fewer = {name: tensor for name, tensor in WEIGHTS.items() if "LayerNorm" not in name}
    assert group_digests(fewer.items(), "float32")["embeddings"] != digests()["embeddings"]


def test_what_is_equal_as_it_is_served_is_equal() -> None:
    nearly = {"embeddings_project.weight": torch.ones(3) + 1e-4}
    assert digests("bfloat16", **nearly) == digests("bfloat16") != digests()
    assert group_digests([(n, t.bfloat16()) for n, t in WEIGHTS.items()], "bfloat16") == digests("bfloat16")


def test_poolers_and_index_buffers_stay_out() -> None:
    more = {"pooler.dense.weight": torch.ones(3), "embeddings.position_ids": torch.arange(3)}
    assert digests(**more) == digests()


def test_old_names_of_layer_norm_are_the_same_weights() -> None:
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor for name, tensor in WEIGHTS.items()}
    assert group_digests(old.items(), "float32") == digests()
