"""What no file says is asked on a terminal: a real one, with `push` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import torch
from saved_checkpoints import WIDTH, N, peft
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
    factors = {"prefix_task_cols": torch.ones(3, N, 1) / 10, "prefix_task_rows": torch.ones(3, 1, WIDTH)}
    words = ["push", *peft(tmp_path, factors, peft_type="MULTITASK_PROMPT_TUNING"), "--url", server.url]

    code, shown = talk([*words, "--task", "many", "--kind", "label-words"], 'all\n1\n{"yes": "a", "no": "b"}\n')

    assert code == 0, shown
    assert "the prompt was trained for 3 tasks" in shown
    assert "'all' is not a whole number" in shown
    assert "which label has which words" in shown
    assert "default/many" in shown
