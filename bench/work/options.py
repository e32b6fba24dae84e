"""What every command can be told."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from bench.measuring.rounds import MIN_ROUNDS


@dataclass(frozen=True, slots=True)
class Options:
    """One run of a command."""

    backbones: tuple[str, ...]  # directories, or random:SHAPE; the demo's for what is not among them
    lines: Path | None  # texts; None: the demo's movie review snippets
    cache: Path
    num_threads: int
    num_rounds: int
    device: str
    is_small: bool  # a sign that it runs: little work, few tasks
    is_json: bool

    def scaled(self, number: int, small: int) -> int:
        """Return `number`, or `small` when a sign is all that is asked for."""
        return small if self.is_small else number


def parser_of(name: str, about: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that all commands share."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=about)
    parser.add_argument(
        "--backbone", action="append", default=[], help="a transformers directory, or random:SHAPE; may be repeated"
    )
    parser.add_argument("--lines", type=Path, help="a file of texts; default: the demo's movie review snippets")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("SOFTMUX_CACHE", "~/.cache/softmux")))
    parser.add_argument("--threads", type=int, default=2, help="for each contender")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--small", action="store_true", help="little work: a sign that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def options_of(given: argparse.Namespace) -> Options:
    """Return what a parser of `parser_of` has read."""
    return Options(
        backbones=tuple(given.backbone),
        lines=given.lines,
        cache=given.cache.expanduser(),
        num_threads=given.threads,
        num_rounds=given.rounds,
        device=given.device,
        is_small=given.small,
        is_json=given.json,
    )
