"""Every benchmark runs on tiny random backbones and tells what it found; what it found there means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands.main import COMMANDS
from bench.measuring.record import Record
from bench.report.page import page, read_records
from bench.work.options import Options, options_of, parser_of
from bench.work.traffic import mixed_lengths, tasks_of

ROOT = Path(__file__).parents[3]
TINY = ("--backbone", "random:bert-tiny", "--backbone", "random:llama-tiny", "--small", "--threads", "1")
FIELDS = ("bench", "case", "subject", "peer", "unit", "value", "peer_value", "ratio")
PEERS = {
    "engine-bare", "transformers-padded", "transformers-static", "transformers-continuous", "peft-switch",
    "peft-microbatch", "mixed-padding", "short-prefix", "floor", "uncompiled", "ten-tasks", "no-swaps",
    "bound", "forward-and-4-ms", "forward-and-2-ms",
}  # fmt: skip


def run_command(name: str, cache: Path) -> list[Record]:
    words = [sys.executable, "-m", "bench", name, *TINY, "--rounds", "1", "--cache", str(cache), "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        told = json.loads(line)
        assert set(FIELDS) <= set(told)
        assert told["subject"] == "softmux"
        assert told["peer"] in PEERS
        assert told["ratio"] == pytest.approx(told["value"] / told["peer_value"])
    return read_records(done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_tells_what_it_found(name: str, tmp_path: Path) -> None:
    records = run_command(name, tmp_path)
    assert {record.bench for record in records} == {name}
    assert all(record.value > 0 for record in records)
    assert f"### {name}" in page(records, [], "a machine")


def test_options_are_those_of_the_command_line() -> None:
    found = options_of(parser_of("encoder", None).parse_args([*TINY, "--json"]))
    assert isinstance(found, Options)
    assert found.backbones == ("random:bert-tiny", "random:llama-tiny")
    assert (found.is_small, found.is_json, found.num_threads, found.scaled(32, 4)) == (True, True, 1, 4)


def test_popularities_name_every_task_that_they_should() -> None:
    assert set(tasks_of("identical", 50, 9)) == {0}
    assert sorted(tasks_of("distinct", 9, 9)) == list(range(9))
    zipf = tasks_of("zipf", 2000, 9)
    assert zipf.count(0) > 2 * zipf.count(3) > 0
    assert set(tasks_of("uniform", 2000, 9)) == set(range(9))
    assert set(mixed_lengths(256)) == {8, 16, 32, 64, 128}
