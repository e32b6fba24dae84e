"""`softmux serve` in a process of its own, on a port that is free. Knows no request."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVE = (sys.executable, "-m", "server.cli", "serve")

_STARTED = re.compile(r"running on (http://[\d.]+:\d+)")


@dataclass
class ServerProcess:
    """A server that has started. `log` grows while it runs."""

    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)
    url: str = ""

    def stop(self, timeout_s: float = 60.0) -> int:
        """Tell it to stop in order, as a supervisor does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def serving(
    backbone: Path, store: str, settings: Mapping[str, str] | None = None, command: Sequence[str] = SERVE
) -> Iterator[ServerProcess]:
    """Run `command` until the block ends; `settings` are names without the prefix SOFTMUX_.

    Raises RuntimeError with the log when the server ends before it serves. What still runs at the end is killed.
    """
    words = [*command, "--backbone", str(backbone), "--store", store, "--port", "0", "--log-level", "info"]
    environment = os.environ | {f"SOFTMUX_{name}": value for name, value in (settings or {}).items()}
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    server, has_news = ServerProcess(process), threading.Event()
    reader = threading.Thread(target=_follow, args=(server, has_news), daemon=True)
    reader.start()
    try:
        has_news.wait()
        if not server.url:
            raise RuntimeError("the server did not start:\n" + "".join(server.log))
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join()
        for pipe in (process.stdin, process.stderr):
            assert pipe is not None
            pipe.close()


def _follow(server: ServerProcess, has_news: threading.Event) -> None:
    """Keep reading, else the server would block on a full pipe."""
    assert server.process.stderr is not None
    for line in server.process.stderr:
        server.log.append(line)
        if not server.url and (started := _STARTED.search(line)):
            server.url = started[1]
            has_news.set()
    has_news.set()


def resident_memory(process_id: int) -> int:
    """Return the bytes of memory that a process holds. Linux only."""
    status = Path(f"/proc/{process_id}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
