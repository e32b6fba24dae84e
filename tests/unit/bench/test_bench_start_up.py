"""A server holds what it says it holds: weights, budgets, what it imports, and a bounded rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.start_up import BENCH, of_kind
from bench.subjects.loading_server import weights_bytes
from bench.work.backbones import directory_of
from bench.work.options import Options


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux: memory is read from /proc")
def test_a_servers_memory_is_bounded_when_loaded_and_after_traffic(tmp_path: Path) -> None:
    options = Options(("random:bert-tiny",), None, tmp_path, 1, 1, "cpu", is_small=True, is_json=True)
    records = {record.case: record for record in of_kind(options, "encoder")}

    assert list(records) == ["encoder-ready", "encoder-memory-loaded", "encoder-memory-asked"]
    assert {record.bench for record in records.values()} == {BENCH}
    for case in ("encoder-memory-loaded", "encoder-memory-asked"):
        assert records[case].is_met, records[case].note
    assert weights_bytes(directory_of(options, "encoder")) > 0
