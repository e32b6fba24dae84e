"""How long a server takes from its weights to its first answer, and how much memory it holds. Linux only."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.server_process import ROOT, ServerProcess, resident_memory, serving

WEIGHTS_READ = "the backbone's weights are read"  # the event in the server's log
# What a server imports for a backbone, and nothing else that it does.
_IMPORTS = """
import sys, time
started = time.perf_counter()
import server.serve, server.cli.commands.serve, tokenizers
from transformers import AutoConfig, AutoModel, AutoTokenizer
config = AutoConfig.from_pretrained(sys.argv[1])
AutoModel._model_mapping[type(config)]
seconds = time.perf_counter() - started
print(seconds, next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
"""


@dataclass(frozen=True, slots=True)
class Imports:
    """What importing alone takes."""

    seconds: float
    num_bytes: int


def imports_of(directory: Path) -> Imports:
    """Import what a server of this backbone does, in a process of its own."""
    words = [sys.executable, "-c", _IMPORTS, str(directory)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, kibibytes = done.stdout.split()
    return Imports(float(seconds), int(kibibytes) * 1024)


def weights_bytes(directory: Path) -> int:
    """Return the bytes of a backbone's weights."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


@dataclass(frozen=True, slots=True)
class LoadedServer:
    """A server that is ready."""

    server: ServerProcess
    ready_s: float  # from its weights being read

    @property
    def resident_memory(self) -> int:
        """Return the bytes of memory that the process holds."""
        return resident_memory(self.server.process.pid)


@contextmanager
def loaded_server(directory: Path, store: str, settings: Mapping[str, str]) -> Iterator[LoadedServer]:
    """Start a server on this store and wait until it is ready."""
    with serving(directory, store, settings) as server:
        with urllib.request.urlopen(f"{server.url}/readyz") as answer:
            assert answer.status == 200
        yield LoadedServer(server, time.time() - _moment_of(WEIGHTS_READ, server.log))


def _moment_of(event: str, log: Sequence[str]) -> float:
    told = (json.loads(line) for line in log if line.startswith("{"))
    line = next((line for line in told if line["event"] == event), None)
    if line is None:
        raise RuntimeError(f"the server's log does not say {event!r}; is it of another softmux?")
    return datetime.fromisoformat(line["time"]).timestamp()
