from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from prompt_store.errors import CheckpointError
from prompt_store.formats.flatten import flatten

ONE = torch.ones(2, 3)


def test_dicts_give_keys_and_lists_places() -> None:
    nested = {"keys": [ONE, ONE * 2], "table": OrderedDict({"task.weight": ONE}), "more": nn.ParameterList([ONE])}
    found = flatten(nested)
    assert sorted(found.tensors) == ["keys.0", "keys.1", "more.0", "table.task.weight"]
    assert torch.equal(found.tensors["keys.1"], ONE * 2)
    assert found.left_out == ()


def test_of_a_training_run_the_state_dict_alone_is_taken() -> None:
    found = flatten({"state_dict": {"soft": ONE}, "optimizer": {"soft": ONE}, "epoch": 3})
    assert list(found.tensors) == ["soft"]
    assert flatten({"state_dict": ONE}).tensors.keys() == {"state_dict"}  # a tensor of that name


def test_what_is_no_vector_is_left_out_and_named() -> None:
    found = flatten({"indices": torch.arange(3), "name": "x", "soft": ONE})
    assert (list(found.tensors), found.left_out) == (["soft"], ("indices", "name"))


def test_lone_tensor_goes_by_the_name_of_its_file() -> None:
    assert torch.equal(flatten(ONE, "decoder").tensors["decoder"], ONE)
    with pytest.raises(CheckpointError, match="one bare Tensor; say the name"):
        flatten(ONE)


def test_tensors_are_plain_copies_in_a_dtype_that_is_taken() -> None:
    tied = nn.Parameter(torch.ones(3, 2, dtype=torch.float64)).t()
    found = flatten({"a": tied, "b": tied, "half": ONE.bfloat16()}).tensors
    assert found["a"].data_ptr() != found["b"].data_ptr()
    assert found["a"].is_contiguous()
    assert not found["a"].requires_grad
    assert (found["a"].dtype, found["half"].dtype) == (torch.float32, torch.bfloat16)


def test_two_ways_to_one_name_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"two tensors of the file are both 'a\.b'"):
        flatten({"a.b": ONE, "a": {"b": ONE}})


def test_nesting_has_an_end() -> None:
    nested: object = ONE
    for _ in range(50):
        nested = [nested]
    with pytest.raises(CheckpointError, match="nested deeper than 16"):
        flatten(nested)


def test_pickle_of_a_cartridge_needs_one_safe_global(tmp_path: Path) -> None:
    lists = {"trainable_keys": nn.ParameterList([nn.Parameter(ONE)]), "frozen_keys": nn.ParameterList([])}
    torch.save(lists, tmp_path / "cache.pt")
    with torch.serialization.safe_globals([nn.ParameterList]):
        loaded = torch.load(tmp_path / "cache.pt", weights_only=True)
    assert list(flatten(loaded).tensors) == ["trainable_keys.0"]
