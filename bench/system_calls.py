"""See a running process's system calls through strace, or have one of them fail. Knows no store."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)")
_RESULT = re.compile(r"\) += (-?\d+|\?)(.*)$")


@dataclass(frozen=True, slots=True)
class SystemCall:
    """One call. `began` and `ended` are places in the order in which everything began and ended."""

    thread: int
    name: str
    arguments: str
    result: int
    began: int
    ended: int
    note: str = ""  # what strace says behind the result


@dataclass
class Watch:
    """What was seen; complete when the block of `watching` has ended."""

    calls: list[SystemCall] = field(default_factory=list)


def has_strace() -> bool:
    """Whether it is installed and may look at processes."""
    return shutil.which("strace") is not None and subprocess.run(["strace", "-qo", "/dev/null", "true"]).returncode == 0


@contextmanager
def watching(pid: int, names: Sequence[str], inject: str | None = None) -> Iterator[Watch]:
    """See these calls of all of a process's threads during the block. `inject` is strace's own expression."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "calls"
        words = ["strace", "-f", "-y", "-s", "64", "-o", str(out), "-e", f"trace={','.join(names)}"]
        words += ["-e", f"inject={inject}"] if inject else []
        strace = subprocess.Popen([*words, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
        try:
            _wait_until_attached(strace)
            yield watch
        finally:
            strace.send_signal(signal.SIGINT)
            strace.communicate()
            watch.calls += parse(out.read_text(errors="replace")) if out.exists() else []


def _wait_until_attached(strace: subprocess.Popen[str]) -> None:
    assert strace.stderr is not None
    line = strace.stderr.readline()
    if "attached" not in line:
        raise RuntimeError(f"strace could not look at the process: {line or 'it ended at once'}")


def parse(text: str) -> list[SystemCall]:
    """Read what strace wrote; calls that others interrupted are put together again. In the order they ended."""
    calls: list[SystemCall] = []
    open_calls: dict[int, tuple[int, str]] = {}
    for place, line in enumerate(text.splitlines()):
        found = _LINE.match(line)
        if found is None:
            continue
        thread, name, rest = int(found[1]), found[2], found[3]
        began, before = open_calls.pop(thread, (place, "")) if "resumed>" in line else (place, "")
        if rest.endswith("<unfinished ...>"):
            open_calls[thread] = place, rest.removesuffix("<unfinished ...>")
            continue
        result = _RESULT.search(rest)
        if result is not None and result[1] != "?":
            calls.append(
                SystemCall(thread, name, before + rest[: result.start()], int(result[1]), began, place, result[2])
            )
    return calls
