"""P-Tuning v1: softmux with the prompt baked, against transformers with the training-time encoder run in the request.

`python -m bench.ptuning [--backbone smollm2|minilm|DIR] [--virtual-tokens 20] [--requests 64] [--threads 2] [--json]`
Text by text, float32, one request at a time; exit code 1 if an answer is off by more than 1e-5.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.measuring.contender import Contender, RunRound, running, timed
from bench.measuring.rounds import MIN_ROUNDS, Timing, alternate
from bench.ptuning_contenders import Answer, Work, baked, live
from bench.sentences import backbone_directory, sentences
from server.demo.backbones import BACKBONES

ALLOWED = 1e-5
OpenAnswer = Callable[[Work], AbstractContextManager[Answer]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both contenders on the same texts."""

    live: Timing
    baked: Timing
    answer_error: float  # the largest of all answers: label words' scores, or entries of an embedding
    logit_error: float  # before the softmax, on the scale below
    logit_scale: float

    @property
    def ratio(self) -> float:
        """How many times faster the baked prompt is: the median over rounds, each pair taken in turn."""
        pairs = zip(self.live.rates, self.baked.rates, strict=True)
        return statistics.median(fast / slow for slow, fast in pairs)


def compare(timings: Sequence[Timing], answers: Sequence[torch.Tensor], has_words: bool) -> Comparison:
    """Judge two contenders' `answers` [requests, n], the live one's first; `has_words`: their softmax is the answer."""
    wanted, got = answers
    scores, found = (wanted.softmax(-1), got.softmax(-1)) if has_words else (wanted, got)
    return Comparison(
        live=timings[0],
        baked=timings[1],
        answer_error=float((scores - found).abs().max()),
        logit_error=float((wanted - got).abs().max()),
        logit_scale=float(wanted.abs().max()),
    )


def main() -> None:
    """Run the benchmark, print its table or one JSON object, and exit with 1 when an answer is off."""
    options = _options()
    cache = options.cache.expanduser()
    lines = tuple(sentences(options.lines, options.requests, cache))
    work = Work(_directory(options.backbone, cache), options.virtual_tokens, options.threads, lines)
    contenders = [
        Contender("transformers, encoder in the request", functools.partial(_rounds, live, work)),
        Contender("softmux, baked", functools.partial(_rounds, baked, work)),
    ]
    with running(contenders) as started:
        timings = list(alternate(started, options.rounds).values())
        answers = [torch.tensor([list(row) for row in one.answers]) for one in started]
        found = compare(timings, answers, work.read != "mean")
    if options.json:
        print(json.dumps(record(found, setting(work))))
    else:
        show(found, setting(work), Console())
    sys.exit(found.answer_error > ALLOWED)


@contextmanager
def _rounds(open_answer: OpenAnswer, work: Work) -> Iterator[RunRound]:
    with open_answer(work) as answer:
        yield timed(lambda: [row.tolist() for row in answer()], len(work.lines))


def setting(work: Work) -> str:
    """Say on what was measured."""
    before, after = work.counts
    return (
        f"{work.directory.name}, float32, {work.num_threads} threads, {len(work.lines)} texts, {before}+{after} tokens"
    )


def record(found: Comparison, where: str) -> dict[str, str | float]:
    """Return what a machine reads of a comparison."""
    return {
        "bench": "ptuning",
        "case": where,
        "subject": "softmux, baked",
        "peer": "transformers, encoder in the request",
        "unit": "ms/request",
        "value": _milliseconds(found.baked)[0],
        "peer_value": _milliseconds(found.live)[0],
        "ratio": found.ratio,
        "worst_error": found.answer_error,
        "allowed_error": ALLOWED,
        "logit_error": found.logit_error,
        "logit_scale": found.logit_scale,
    }


def show(found: Comparison, where: str, console: Console) -> None:
    """Print a request's time for both, and how far apart their answers are."""
    table = Table(title=f"P-Tuning v1, {where}")
    table.add_column("contender")
    for column in ("ms/request", "fastest", "slowest", "times faster"):
        table.add_column(column, justify="right")
    for timing, ratio in ((found.live, 1.0), (found.baked, found.ratio)):
        times = (f"{ms:.2f}" for ms in _milliseconds(timing))
        table.add_row(timing.name, *times, f"{ratio:.2f}")
    console.print(table)
    num_rounds = len(found.live.rounds)
    note = f"medians of {num_rounds} rounds, taken in turn, each contender in a process of its own"
    if num_rounds < MIN_ROUNDS:
        note += f"; fewer than {MIN_ROUNDS}, so only a sign that it runs"
    console.print(note, style="dim")
    verdict = "fine" if found.answer_error <= ALLOWED else "TOO FAR"
    console.print(
        f"worst answer is off by {found.answer_error:.1e}, allowed {ALLOWED:.0e}: {verdict}; "
        f"its logits by {found.logit_error:.1e} of {found.logit_scale:.1f}"
    )


def _milliseconds(timing: Timing) -> tuple[float, float, float]:
    """Return a request's time in the median round, in the fastest and in the slowest."""
    each = [1e3 / rate for rate in timing.rates]
    return statistics.median(each), min(each), max(each)


def _directory(named: str, cache: Path) -> Path:
    for name in BACKBONES:
        if named == name:
            return backbone_directory(None, name, cache)
    return Path(named)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ptuning", description=__doc__)
    parser.add_argument("--backbone", default="smollm2", help="smollm2, minilm, or a transformers directory")
    parser.add_argument("--lines", type=Path, help="a file of texts; default: the demo's movie review snippets")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("SOFTMUX_CACHE", "~/.cache/softmux")))
    parser.add_argument("--virtual-tokens", type=int, default=20, help="half of them in front of the text")
    parser.add_argument("--threads", type=int, default=2, help="for each contender")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
