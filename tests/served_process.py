"""`softmux serve` in a process of its own, on a free port."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(backbone: Path, store: Path | str) -> Iterator[str]:
    """Serve until the end of the block, then stop in order. `store` is a folder or an address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        "serve",
        "--backbone",
        str(backbone),
        "--store",
        store if isinstance(store, str) else store.as_uri(),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", *words, "--num-threads", "1"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        log = [next(process.stderr, "ended early")]
        while "running on" not in log[-1] and "ended early" not in log[-1]:
            log.append(next(process.stderr, "ended early"))
        assert "ended early" not in log[-1], "".join(log)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 0, "".join(log) + rest
    finally:
        process.kill()
        process.communicate()
