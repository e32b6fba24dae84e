"""Importing does nothing: no thread, no device, no file; and what needs no tensors imports no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EVERYTHING = """
import importlib, os, pkgutil, sys, threading
import prompt_store, server
for package in (prompt_store, server):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as absent:  # a kernel's compiler is there only where a GPU is
            assert absent.name == "triton", absent
import torch
found = [thread.name for thread in threading.enumerate()]
assert found == ["MainThread"], found
assert not torch.cuda.is_initialized()
assert not os.listdir("."), os.listdir(".")
"""
LIGHT = """
import sys
import prompt_store.refs, prompt_store.errors, server, server.settings, server.engine.scheduler, server.telemetry.logs
found = [name for name in ("torch", "transformers", "fastapi", "redis") if name in sys.modules]
assert not found, found
"""


def ran(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def test_importing_every_module_starts_nothing(tmp_path: Path) -> None:
    done = ran(EVERYTHING, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_names_settings_and_the_scheduler_import_no_tensors(tmp_path: Path) -> None:
    done = ran(LIGHT, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_command_line_helps_without_tensors(tmp_path: Path) -> None:
    code = "import atexit\natexit.register(lambda: print([n for n in ('torch', 'transformers') if n in sys.modules]))\n"
    code += "sys.argv = ['softmux', '--help']\nfrom server.cli import main\nmain()"
    done = ran(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "[]"
