"""`softmux push` of what cannot be served, against a real server: refused with what to do, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_checkpoints import CASES
from cli_stub import Softmux
from saved_checkpoints import peft
from wire_server import Server


@pytest.mark.parametrize("name", CASES)
def test_is_refused_with_what_to_do(name: str, server: Server, softmux: Softmux, tmp_path: Path) -> None:
    case = CASES[name]
    words = case.build(tmp_path)

    ended = softmux("push", *words, "--task", "t", "--url", server.url)

    assert ended.code == case.code, ended.err
    assert [word for word in case.told if word not in ended.err] == [], ended.err
    assert ended.err.count("error: ") == 1
    assert "Traceback" not in ended.err
    assert not Path("pwned").exists()


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 20


def test_inspect_ends_in_order_on_them_too(softmux: Softmux, tmp_path: Path) -> None:
    for name, case in list(CASES.items())[::3]:
        folder = tmp_path / name
        folder.mkdir()
        path = case.build(folder)[0]

        ended = softmux("inspect", path, "--offline")

        assert ended.code in (0, 1, 2), name
        assert "Traceback" not in ended.err, name
        assert ended.out or ended.err.startswith("error: "), name


def test_as_a_process_of_its_own(server: Server, tmp_path: Path) -> None:
    name = "a_full_fine_tune"
    words = ["push", *CASES[name].build(tmp_path), "--task", "t", "--url", server.url]

    done = subprocess.run([sys.executable, "-m", "server.cli", *words], capture_output=True, text=True, check=False)

    assert done.returncode == CASES[name].code
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(server: Server, softmux: Softmux, tmp_path: Path) -> None:
    words = peft(tmp_path)
    (tmp_path / "adapter_model.safetensors").chmod(0)

    ended = softmux("push", *words, "--task", "t", "--url", server.url)

    assert ended.code == 2
    assert "Permission denied" in ended.err
