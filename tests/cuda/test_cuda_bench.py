"""Benchmarks run on a GPU; what they find on tiny backbones means nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cuda, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
TINY = ("--backbone", "random:bert-tiny", "--backbone", "random:llama-tiny", "--small", "--threads", "2")


@pytest.mark.parametrize("name", ["floor", "encoder", "decoder", "steps", "long-prefix", "compiled"])
def test_a_command_runs(name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bench", name, *TINY, "--rounds", "1", "--cache", str(tmp_path), "--json"]
    done = subprocess.run([*words, "--device", "cuda"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()
