"""Have each system call of a publish on a disk store fail, one at a time, and look at what is said and what is kept.

`python -m bench.publish_faults`: strace lets the n-th call of each kind fail with EIO or ENOSPC, those of SQLite too;
the artifact's write tells of bytes that it has not written; and a limit on the size of files cuts writes short, at many
places of the artifact and of the names. Either the publish is acknowledged and there, or it is refused with one of the
store's errors and the store is as sound as before. Then the same publish must succeed, in the same process or,
where that process may no longer trust its file, in a new one.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.publish_child import artifact
from bench.system_calls import SystemCall, Watch, has_strace, watching
from prompt_store.digest import version_of
from prompt_store.disk.layout import NAMES_FILE
from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.errors import SoftmuxError
from prompt_store.fsck import examine
from prompt_store.refs import LIVE, TaskName, Version

ROOT = Path(__file__).parents[1]
TENANT = "acme"
TASK = TaskName(TENANT, "task")
ERRORS = ("EIO", "ENOSPC")
FALLIBLE = ("openat", "mkdir", "write", "fsync", "rename", "read", "close", "pwrite64", "fdatasync", "pread64")
SHORT = "short write"
NUM_CUTS = 20  # in the artifact, and as many in the names
SMALL_BYTES, LARGE_BYTES = 100, 300_000  # artifacts: one of them below and one above any size that the names have here
READS = ("read", "pread64", "close")  # never for want of space
DEADLINE_S = 120
ACKNOWLEDGED = "acknowledged"
REFUSALS = ("StoreFullError", "StoreUnavailableError", "StoreCorruptError")


@dataclass(frozen=True, slots=True)
class Fault:
    """The n-th call of one kind, of each thread, does this. Of a short write: no file can pass so many bytes."""

    name: str
    nth: int
    does: str  # strace's words
    artifact_bytes: int = LARGE_BYTES

    @property
    def expression(self) -> str:
        """Return it as strace says it."""
        return f"{self.name}:{self.does}:when={self.nth}"

    @contextmanager
    def at_work(self, pid: int) -> Iterator[Watch]:
        """Disturb the process during the block."""
        if self.name != SHORT:
            with watching(pid, (self.name,), self.expression) as watch:
                yield watch
            return
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (self.nth, before[1]))
        yield Watch()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a publish said, and what is wrong with that."""

    fault: Fault
    was_hit: bool
    said: str
    wrong: tuple[str, ...]


class Child:
    """A process that has the store open and publishes when told."""

    def __init__(self, root: Path, artifact_bytes: int) -> None:
        self._ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "bench.publish_child", str(root), TENANT, str(artifact_bytes)]
        with theirs:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=theirs.fileno())
        self._ours.settimeout(DEADLINE_S)
        self._lines = self._ours.makefile("rb")
        self.hear()

    def publish(self) -> str:
        """Have it publish, and return what it says."""
        self._ours.send(b"!")
        return self.hear()

    def hear(self) -> str:
        """Return its next line. Raises TimeoutError."""
        return self._lines.readline().decode().strip()

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._lines.close()
        self._ours.close()


@contextmanager
def child(root: Path, artifact_bytes: int = LARGE_BYTES) -> Iterator[Child]:
    """Have such a process for the block."""
    one = Child(root, artifact_bytes)
    try:
        yield one
    finally:
        one.end()


def calls_of_a_publish() -> tuple[list[SystemCall], int]:
    """Return the calls when nothing fails, and how large the file was that names are first written to."""
    with tempfile.TemporaryDirectory() as folder, child(Path(folder) / "store") as one:
        names_bytes = (Path(folder) / "store" / f"{NAMES_FILE}-wal").stat().st_size
        with watching(one.process.pid, FALLIBLE) as watch:
            one.publish()
        return watch.calls, names_bytes


def faults(calls: Sequence[SystemCall], names_bytes: int) -> list[Fault]:
    """Return every fault to try: the calls of each kind are counted by thread."""
    counts = Counter((call.name, call.thread) for call in calls)
    found = []
    for name in FALLIBLE:
        most = max((count for (kind, _), count in counts.items() if kind == name), default=0)
        does = [f"error={error}" for error in ERRORS if not (error == "ENOSPC" and name in READS)]
        does += ["retval=7"] if name == "write" else []  # says seven bytes and has written none: a disk that lies
        found += [Fault(name, nth, what) for nth in range(1, most + 1) for what in does]
    return found + short_writes(names_bytes)


def short_writes(names_bytes: int) -> list[Fault]:
    """Return limits that cut a large artifact, and with a small one the names."""
    cuts = [LARGE_BYTES * number // NUM_CUTS for number in range(NUM_CUTS)]
    found = [Fault(SHORT, cut, "of the bytes") for cut in cuts]
    step = 97 + 4096 // 4  # in pages and between them
    cuts = [names_bytes + step * number for number in range(NUM_CUTS)]
    return found + [Fault(SHORT, cut, "of the names", SMALL_BYTES) for cut in cuts]


def try_fault(fault: Fault) -> Outcome:
    """Publish with one fault, then look, then publish again without."""
    with tempfile.TemporaryDirectory() as folder:
        root, version = Path(folder) / "store", version_of(artifact(fault.artifact_bytes))
        with child(root, fault.artifact_bytes) as one:
            with fault.at_work(one.process.pid) as watch:
                said = one.publish()
            wrong = asyncio.run(_wrong(root, version, said))
            again = one.publish()
        if again != ACKNOWLEDGED:
            with child(root, fault.artifact_bytes) as another:
                again = another.publish()
        if again != ACKNOWLEDGED:
            wrong.append(f"publishing again, in a new process too: {again or 'the process died'}")
        wrong += [f"then {fault}" for fault in asyncio.run(_wrong(root, version, ACKNOWLEDGED))]
    was_hit = any("(INJECTED)" in call.note for call in watch.calls) or (fault.name == SHORT and said != ACKNOWLEDGED)
    return Outcome(fault, was_hit, said, tuple(wrong))


async def _wrong(root: Path, version: Version, said: str) -> list[str]:
    """Return what is not as was said, and what is not sound."""
    wrong = [] if said == ACKNOWLEDGED or said.startswith(REFUSALS) else [f"said {said or 'nothing: it died'}"]
    try:
        store = DiskStore(root, DiskOptions(min_free_ratio=0))
    except SoftmuxError as error:
        return [*wrong, f"cannot be opened: {error}"]
    try:
        health = await examine(store, 0.0, lambda _: None)
        wrong += [str(problem) for problem in health.problems]
        if said == ACKNOWLEDGED:
            record = await store.resolve(TASK)
            if record.aliases[LIVE].targets[0].version != version:
                wrong.append("acknowledged, and not live")
            await store.get(TENANT, version)
    except (SoftmuxError, LookupError) as error:
        wrong.append(f"{type(error).__name__}: {error}")
    finally:
        await store.close()
    return wrong


def main() -> None:
    """Run and print; exit with 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4)
    said = parser.parse_args()
    if not has_strace():
        raise SystemExit("strace is not installed, or may not look at processes; on Debian: apt install strace")
    with ThreadPoolExecutor(said.jobs) as jobs:
        outcomes = list(jobs.map(try_fault, faults(*calls_of_a_publish())))
    print_table(outcomes)
    sys.exit(any(outcome.wrong for outcome in outcomes))


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Print how often each fault was had, and what was said."""
    hit = [outcome for outcome in outcomes if outcome.was_hit]
    rows = Counter((o.fault.name, o.fault.does, o.said.split(":")[0] or "died") for o in hit)
    print(f"{'call':13}{'fault':15}{'times':>6}  the publish")
    for (name, does, answer), times in rows.items():
        print(f"{name:13}{does:15}{times:>6}  {answer}")
    wrong = [outcome for outcome in hit if outcome.wrong]
    print(f"{len(hit)} faults, {len(wrong)} after which something was wrong")
    for outcome in wrong:
        print(f"  {outcome.fault.expression}: {'; '.join(outcome.wrong)}")


if __name__ == "__main__":
    main()
