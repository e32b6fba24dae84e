"""What no file says is asked on a terminal: a real one, with `push` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import torch
from saved_checkpoints import lama_file
from wire_server import Server


def talk(words: list[str], answers: str) -> tuple[int, str]:
    """Run a command line on a terminal where somebody types `answers`; return its code and what the screen showed."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "server.cli", *words]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 4096):
                shown.extend(chunk)
        except OSError:  # the other side has closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    os.write(ours, answers.encode())
    code = process.wait(timeout=50)
    reader.join(timeout=10)
    os.close(ours)
    return code, shown.decode(errors="replace")


def test_questions_on_a_terminal(server: Server, tmp_path: Path) -> None:
    torch.save(lama_file(template=None), tmp_path / "epoch_5.ckpt")
    words = ["push", str(tmp_path / "epoch_5.ckpt"), "--task", "capital", "--url", server.url]

    code, shown = talk(words, '<soft:2>{subject}<soft:2>\n{"yes": "a", "no": "b"}\n')

    assert code == 0, shown
    assert "nobody says where the text and the virtual tokens stand" in shown
    assert "which label has which words" in shown
    assert "default/capital" in shown
