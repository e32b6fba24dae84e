"""Nothing that an upload can reach may read a format that runs code or unpacks: proved by reading the code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The command line converts a publisher's own pickles on the publisher's own machine; the demo unpacks wheels whose
# digest it knows. Neither may be imported by what serves.
EXEMPT = (ROOT / "server" / "cli", ROOT / "server" / "demo")
SOURCES = sorted(
    path
    for room in ("prompt_store", "server")
    for path in (ROOT / room).rglob("*.py")
    if not any(map(path.is_relative_to, EXEMPT))
)
MODULES = {
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "numpy.lib.format"),
    *("zipfile", "tarfile", "gzip", "bz2", "lzma", "zlib", "zipimport", "shutil.unpack_archive"),
    *("yaml", "runpy", "code", "ctypes"),
}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    "torch.load",
    "torch.jit",
    "torch.hub",
    "numpy.load",
    "np.load",
    "numpy.fromfile",
    "safetensors.safe_open",
}
MMAP = {"mmap"}
# Asks the C library to hand memory back, once at start, before there is an upload; it reads nothing.
KNOWN = {ROOT / "server" / "engine" / "backbone" / "settling.py": {"import ctypes"}}


def faults(tree: ast.AST) -> Iterator[str]:
    """Name everything in the tree that can read what it must not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if is_forbidden(alias.name))
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (f"from {name}" for name in names if is_forbidden(name) or name in ATTRIBUTES)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield f"{node.func.id}()"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ATTRIBUTES:
            yield ast.unparse(node)


def is_forbidden(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:depth]) in MODULES | MMAP for depth in range(1, len(parts) + 1))


def test_there_is_something_to_read() -> None:
    assert any(path.name == "safefile.py" for path in SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_unsafe_reader(path: Path) -> None:
    assert set(faults(ast.parse(path.read_text()))) == KNOWN.get(path, set())


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import os, zipfile as z",
        "from tarfile import open",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "eval('1')",
        "def f():\n    import yaml",
        "from mmap import mmap",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
    ],
)
def test_the_reading_finds_what_it_should(code: str) -> None:
    assert list(faults(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["model.eval()", "import re\nre.compile('x')", "import safetensors.torch", "import json"]
)
def test_the_reading_spares_what_is_harmless(code: str) -> None:
    assert not list(faults(ast.parse(code)))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_way_leads_to_what_is_exempt(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [f"{node.module}.{a.name}" for node in nodes if isinstance(node, ast.ImportFrom) for a in node.names]
    assert [name for name in names if name.startswith(("server.cli", "server.demo"))] == []


def test_only_one_place_joins_the_stores_root() -> None:
    joins = []
    for path in sorted((ROOT / "prompt_store").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_slash = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and "root" in ast.unparse(node.left)
            is_join = isinstance(node, ast.Attribute) and node.attr in ("joinpath", "with_name", "with_suffix")
            joins += [path.name] * (is_slash or is_join)
    assert joins == ["layout.py"]
