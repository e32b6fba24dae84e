"""A command line run in this process, and the stub that it talks to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from cli_stub import Ended, Stub, running_stub
from safetensors.torch import save_file

from server.cli import main


@pytest.fixture(scope="module")
def stub_server() -> Iterator[Stub]:
    with running_stub() as stub:
        yield stub


@pytest.fixture
def stub(stub_server: Stub) -> Stub:
    stub_server.answers.clear()
    stub_server.asked.clear()
    return stub_server


@pytest.fixture
def softmux(
    stub_server: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Run a command line against the stub."""
    monkeypatch.setenv("SOFTMUX_URL", stub_server.url)
    monkeypatch.setenv("COLUMNS", "300")  # no message is broken over lines

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["softmux", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def peft_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "prompt"
    folder.mkdir()
    save_file({"prompt_embeddings": torch.ones(4, 8)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM"}')
    return folder
