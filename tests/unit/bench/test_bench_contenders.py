"""softmux and its peers do the same work: the same vectors, the same heads, the same answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.measuring.contender import Round, RunRound
from bench.peers.bare_forward import one_by_one
from bench.peers.mixed_padding import mixed_padding
from bench.peers.mixed_writers import mixed_writer
from bench.peers.padded_batches import padded
from bench.peers.peft_classifiers import peft_batches
from bench.peers.peft_writers import peft_steps, peft_writer
from bench.peers.writers import static
from bench.subjects.classifying import classifying
from bench.subjects.writing import compiled_writing, writing
from bench.work.backbones import Kind, directory_of
from bench.work.decoder_work import DecoderWork
from bench.work.encoder_work import EncoderWork
from bench.work.options import Options
from bench.work.random_tokenizer import random_texts

LINES = tuple(random_texts(6))
TASKS = (0, 1, 2, 1, 0, 2)
LENGTHS = (3, 8, 5)
Open = Callable[..., AbstractContextManager[RunRound]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def directory(cache: Path, kind: Kind) -> Path:
    shapes = ("random:bert-tiny", "random:llama-tiny")
    return directory_of(Options(shapes, None, cache, 1, 1, "cpu", True, True), kind)


def encoder_work(cache: Path) -> EncoderWork:
    return EncoderWork(directory(cache, "encoder"), "float32", 1, "cpu", LINES, TASKS, LENGTHS)


def decoder_work(cache: Path) -> DecoderWork:
    return DecoderWork(directory(cache, "decoder"), "float32", 1, "cpu", LINES, TASKS, LENGTHS, 6)


def done(opener: AbstractContextManager[RunRound]) -> Round:
    with opener as run_round:
        return run_round()


def test_classifiers_answer_alike_with_prompts_and_without(cache: Path) -> None:
    work = encoder_work(cache)
    bare = torch.tensor(done(classifying(work.bare())).answers)
    for peer in (padded(work), one_by_one(work)):
        torch.testing.assert_close(torch.tensor(done(peer).answers), bare, atol=1e-5, rtol=1e-4)
    mixed = torch.tensor(done(classifying(work)).answers)
    assert (mixed - bare).abs().max() > 1e-4
    for peer in (mixed_padding(work), peft_batches(work, 64), peft_batches(work, 1)):
        torch.testing.assert_close(torch.tensor(done(peer).answers), mixed, atol=1e-5, rtol=1e-4)


def test_writers_write_alike_with_prompts_and_without(cache: Path) -> None:
    work = decoder_work(cache)
    bare = done(writing(work.bare()))
    assert done(static(work)).answers == bare.answers
    mixed = done(writing(work))
    assert mixed.answers != bare.answers
    for peer in (mixed_writer(work, False), peft_writer(work, 64), peft_writer(work, 1)):
        assert done(peer).answers == mixed.answers
    assert mixed.amount == len(LINES) * 6


def test_steps_are_counted_by_the_engines_own_clock(cache: Path) -> None:
    work = replace(decoder_work(cache), num_new_tokens=24)
    found = done(writing(work, "steps"))
    # Rows that come together may join in two steps; fewer steps are then full.
    assert 12 < found.amount <= 23
    assert (done(peft_steps(work)).amount, done(mixed_writer(work, True)).amount) == (23, 23)
    assert found.facts["resident_bytes"] == sum(LENGTHS) * 2 * 2 * 2 * 8 * 4  # both; layers; heads; width; float32
    assert found.facts["kv_bytes"] > 0


def test_compiling_changes_no_answer(cache: Path) -> None:
    work = replace(decoder_work(cache), tasks=(0,) * 6, prefix_lengths=(5,))
    compiled, plain = done(compiled_writing(work, True)), done(compiled_writing(work, False))
    assert compiled.answers == plain.answers
    assert compiled.answers != done(compiled_writing(work.bare(), True)).answers
