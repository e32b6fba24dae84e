"""What training code kept in nested containers, as tensors with flat names: the pure half of reading its file.

Whoever opened the file, which is never the server, passes what came out: dicts give their keys and lists their places,
joined by dots, so `{"trainable_keys": [k0, k1]}` is `trainable_keys.0` and `trainable_keys.1`. Opens nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from prompt_store.errors import CheckpointError
from prompt_store.file_header import WORD_TABLE

_MAX_DEPTH = 16
_TAKEN = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Flattened:
    """Tensors ready for safetensors, and the names of what is none: counters, indices, settings."""

    tensors: dict[str, torch.Tensor]
    left_out: tuple[str, ...]


def flatten(loaded: object, name: str = "") -> Flattened:
    """Return every floating-point tensor of `loaded` under a flat name, float64 as float32, and a verbalizer's words.

    A dict with a `state_dict` is a training run's own file, and only that is taken. A lone tensor, or the array of a
    `.npy` file made one, needs a `name`: by custom its file's, without the suffix. Raises CheckpointError.
    """
    found: dict[str, torch.Tensor] = {}
    left_out = []
    for path, leaf in _leaves(_state(loaded), name, 0):
        if not path:
            raise CheckpointError(f"the file holds one bare {type(leaf).__name__}; say the name it goes by")
        if path in found:
            raise CheckpointError(f"two tensors of the file are both {path[:80]!r} once their names are joined")
        if isinstance(leaf, torch.Tensor) and WORD_TABLE.fullmatch(path):
            found[path] = leaf.detach().to(torch.int64, copy=True).contiguous()
        elif isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            # Tied tensors share memory, which safetensors refuses to write: each becomes its own copy.
            found[path] = (
                leaf.detach().to(leaf.dtype if leaf.dtype in _TAKEN else torch.float32, copy=True).contiguous()
            )
        else:
            left_out.append(path)
    return Flattened(found, tuple(left_out))


def _state(loaded: object) -> object:
    state = loaded.get("state_dict") if isinstance(loaded, Mapping) else None
    return state if isinstance(state, Mapping) else loaded


def _leaves(node: object, path: str, depth: int) -> Iterator[tuple[str, object]]:
    if depth > _MAX_DEPTH:
        raise CheckpointError(f"the file is nested deeper than {_MAX_DEPTH} at {path[:80]!r}")
    if isinstance(node, Mapping):
        children = [(str(key), child) for key, child in node.items()]
    elif isinstance(node, list | tuple | nn.ParameterList):
        children = [(str(place), child) for place, child in enumerate(node)]
    else:
        yield path, node
        return
    for key, child in children:
        yield from _leaves(child, f"{path}.{key}" if path else key, depth + 1)
