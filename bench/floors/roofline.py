"""How long a work would take if the machine did nothing but read its bytes, or nothing but multiply.

The roofline of Williams, Waterman and Patterson (2009): the larger of bytes / bandwidth and FLOPs / peak.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.floors.machine import linear_shapes
from bench.work.vectors import PrefixShape

ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured of this machine, for one dtype."""

    flops: float  # a second
    bytes: float  # a second


@dataclass(frozen=True, slots=True)
class Model:
    """A backbone in the numbers that its cost depends on."""

    linear_weights: int  # of the body
    vocabulary_weights: int  # of the layer that writes logits; 0: nobody reads it
    num_layers: int
    kv_width: int  # key/value heads x head_dim
    query_width: int  # query heads x head_dim
    item_bytes: int

    @classmethod
    def of(cls, directory: Path, dtype: str, has_vocabulary: bool) -> Model:
        """Read it off a backbone's config."""
        from transformers import AutoConfig

        shape, config = PrefixShape.of(str(directory)), AutoConfig.from_pretrained(directory)
        body = sum(out * into for out, into, _ in linear_shapes(str(directory), False))
        return cls(
            linear_weights=body,
            vocabulary_weights=config.vocab_size * config.hidden_size if has_vocabulary else 0,
            num_layers=shape.num_layers,
            kv_width=shape.num_heads * shape.head_dim,
            query_width=config.num_attention_heads * shape.head_dim,
            item_bytes=ITEM_BYTES[dtype],
        )

    def linear_flops(self, num_tokens: int) -> float:
        """Return the operations of the linear layers on so many tokens."""
        return 2.0 * self.linear_weights * num_tokens

    def attention_flops(self, num_queries: int, num_keys: int) -> float:
        """Return the operations of attending from so many queries to so many keys, in all layers."""
        return 4.0 * self.num_layers * self.query_width * num_queries * num_keys

    def key_bytes(self, num_keys: int) -> float:
        """Return the bytes of so many tokens' keys and values, in all layers."""
        return 2.0 * self.num_layers * self.kv_width * num_keys * self.item_bytes

    def encode_seconds(self, machine: Machine, lengths: Sequence[int], prefixes: Sequence[int], rows: int) -> float:
        """Return the floor of encoding texts of these lengths behind these prefixes, so many rows a step."""
        flops = sum(
            self.linear_flops(n) + self.attention_flops(n, n + p) for n, p in zip(lengths, prefixes, strict=True)
        )
        num_steps = -(-len(lengths) // rows)
        num_bytes = num_steps * self.linear_weights * self.item_bytes + self.key_bytes(sum(prefixes))
        return max(flops / machine.flops, num_bytes / machine.bytes)

    def step_seconds(self, machine: Machine, contexts: Iterable[int], shared_keys: int = 0) -> float:
        """Return the floor of one decode step of rows that attend to so many keys each.

        `shared_keys` of them, in all, need not be read again: they are another row's as well.
        """
        contexts = list(contexts)
        weights = self.linear_weights + self.vocabulary_weights
        flops = 2.0 * weights * len(contexts) + sum(self.attention_flops(1, n) for n in contexts)
        num_bytes = weights * self.item_bytes + self.key_bytes(sum(contexts) - shared_keys)
        return max(flops / machine.flops, num_bytes / machine.bytes)

    def write_seconds(self, machine: Machine, lengths: Sequence[int], prefixes: Sequence[int], num_new: int) -> float:
        """Return the floor of writing `num_new` tokens for every text at once: one prefill, then steps."""
        prefill = self.encode_seconds(machine, lengths, prefixes, len(lengths))
        contexts = [n + p for n, p in zip(lengths, prefixes, strict=True)]
        steps = (self.step_seconds(machine, [n + done for n in contexts]) for done in range(1, num_new))
        return prefill + sum(steps)
