"""What this machine can do: matrix products by dtype, copies, and a model's linear layers alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from bench.measuring.contender import Round, RunRound

COPY_BYTES = 512 << 20  # beyond every cache
MATMUL_SIZES = {"cpu": 2048, "cuda": 8192}  # a GPU reaches its peak on large ones alone
MIN_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a floor is measured."""

    dtype: str
    device: str
    num_threads: int


@contextmanager
def matmul(place: Place) -> Iterator[RunRound]:
    """Open square matrix products; an amount is one floating point operation."""
    torch.set_num_threads(place.num_threads)
    size = MATMUL_SIZES[place.device]
    left, right = (torch.randn(size, size, device=place.device).to(getattr(torch, place.dtype)) for _ in range(2))
    yield lambda: _repeated(place, lambda: torch.mm(left, right), 2.0 * size**3)


@contextmanager
def copying(place: Place, num_bytes: int = COPY_BYTES) -> Iterator[RunRound]:
    """Open copies of one block; an amount is one byte read or written."""
    torch.set_num_threads(place.num_threads)
    source = torch.ones(num_bytes, dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    yield lambda: _repeated(place, lambda: target.copy_(source), 2.0 * num_bytes)


@contextmanager
def linears(place: Place, directory: str, num_rows: int, has_vocabulary: bool) -> Iterator[RunRound]:
    """Open a model's linear layers, one after the other on `num_rows` tokens; an amount is one pass over all of them.

    `has_vocabulary`: the layer that writes logits is one of them.
    """
    torch.set_num_threads(place.num_threads)
    dtype = getattr(torch, place.dtype)
    layers = []
    for out_size, in_size, has_bias in linear_shapes(directory, has_vocabulary):
        layer = nn.Linear(in_size, out_size, has_bias, device=place.device, dtype=dtype)
        layers.append((layer, torch.randn(num_rows, in_size, device=place.device).to(dtype)))

    def once() -> None:
        for layer, given in layers:
            layer(given)

    yield lambda: _repeated(place, once, 1.0)


def linear_shapes(directory: str, has_vocabulary: bool) -> list[tuple[int, int, bool]]:
    """Return (out, in, has a bias) of every linear layer of the body, in order."""
    config = AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    shapes = [(*module.weight.shape, module.bias is not None) for name, module in modules if "pooler" not in name]
    if has_vocabulary:
        shapes.append((config.vocab_size, config.hidden_size, False))
    return shapes


@torch.inference_mode()
def _repeated(place: Place, work: Callable[[], object], amount: float) -> Round:
    """Do the work again and again until a good part of a second is over."""
    count, started = 0, time.perf_counter()
    while True:
        work()
        count += 1
        if count & 7 == 0 or place.device == "cpu":
            if place.device == "cuda":
                torch.cuda.synchronize()
            if (seconds := time.perf_counter() - started) >= MIN_SECONDS:
                return Round(amount * count, seconds)
