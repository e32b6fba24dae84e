"""Classification on an encoder: softmux with many tasks mixed, against transformers' padded batches without prompts.

`python -m bench.encoder [--dtype bfloat16] [--threads 2] [--backbone DIR] [--lines FILE] [--json]`
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path

import torch
from rich.console import Console

from bench.contender import Contender, running
from bench.encoder_contenders import Work, padded, softmux
from bench.rounds import MIN_ROUNDS, alternate, records, show
from bench.sentences import backbone_directory, sentences

SAME = {"float32": 1e-4, "bfloat16": 5e-2}  # of the logits' scale: the peer and softmux do the same work


def main() -> None:
    """Run the benchmark and print its table, or one JSON object a line."""
    options = _options()
    cache = options.cache.expanduser()
    directory = backbone_directory(options.backbone, "minilm", cache)
    work = Work(directory, options.dtype, options.threads, tuple(sentences(options.lines, options.requests, cache)))
    with running(_contenders(work, options)) as (peer, mixed, bare):
        _check_same(peer.logits, bare.logits, SAME[work.dtype])
        timings = alternate([peer, mixed, bare], options.rounds)
    if options.json:
        for record in records("encoder", f"{work.dtype}, {work.num_threads} threads", timings):
            print(json.dumps(record))
    else:
        show(_title(work, options), timings, Console())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.encoder", description=__doc__)
    parser.add_argument("--backbone", type=Path, help="a transformers directory; default: the demo's MiniLM")
    parser.add_argument("--lines", type=Path, help="a file of sentences; default: the demo's movie review snippets")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("SOFTMUX_CACHE", "~/.cache/softmux")))
    parser.add_argument("--dtype", choices=sorted(SAME), default="float32")
    parser.add_argument("--threads", type=int, default=2, help="for each contender")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--virtual-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _contenders(work: Work, options: argparse.Namespace) -> list[Contender]:
    mixed = functools.partial(softmux, work, options.tasks, options.virtual_tokens)
    return [
        Contender("transformers-padded", "no prompts", functools.partial(padded, work)),
        Contender("softmux", f"{options.tasks} tasks mixed", mixed),
        Contender("softmux", "no prompts", functools.partial(softmux, work, 1, 0)),
    ]


def _check_same(wanted: torch.Tensor, got: torch.Tensor, tolerance: float) -> None:
    error = float((wanted - got).abs().max() / wanted.abs().max())
    if error > tolerance:
        raise SystemExit(f"softmux without prompts is off by {error:.1e} of the peer's logits; nothing to compare")


def _title(work: Work, options: argparse.Namespace) -> str:
    title = f"{work.directory.name}, {work.dtype}, {work.num_threads} threads, {len(work.lines)} sentences"
    return f"{title}, {options.virtual_tokens} virtual tokens a task"


if __name__ == "__main__":
    main()
