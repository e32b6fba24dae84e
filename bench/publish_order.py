"""Show the system calls of one publish on a disk store, in order, and check that nothing is said before it is true.

`python -m bench.publish_order`: a real server publishes under strace; its answer must be the last of all.
`python -m bench.publish_faults` has each of these calls fail.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.random_versions import RandomTask
from bench.server_process import serving
from bench.system_calls import SystemCall, has_strace, watching
from bench.tiny_backbone import save_tiny_backbone

STORAGE = ("openat", "mkdir", "write", "read", "fsync", "rename", "unlink", "pwrite64", "fdatasync", "ftruncate")
ANSWER = ("sendto", "sendmsg", "writev")
NUM_VIRTUAL_TOKENS = 100

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_UNIQUE = re.compile(r"\b[0-9a-f]{32}\.new\b")
_FLAG = re.compile(r"O_CREAT|O_EXCL|O_NOFOLLOW|O_DIRECTORY|\b0[0-7]{3}\b")
_TENANT = re.compile(r"\b[0-9a-f]{32}\b")


@dataclass(frozen=True, slots=True)
class Step:
    """A call in plain words."""

    name: str
    path: str  # below the store's root; empty for the answer
    flags: str
    result: int
    began: int
    ended: int


def steps(calls: Sequence[SystemCall], root: Path) -> list[Step]:
    """Return the calls on the store, and the answer."""
    return [step for call in calls if (step := _step(call, str(root))) is not None]


def _step(call: SystemCall, root: str) -> Step | None:
    if call.name in ANSWER or (call.name == "write" and "HTTP/1.1" in call.arguments):
        is_answer = '"HTTP/1.1 201' in call.arguments
        return Step("answer 201", "", "", call.result, call.began, call.ended) if is_answer else None
    if root not in call.arguments or call.result < 0 or (call.name == "read" and call.result == 0):
        return None
    path = re.sub(r'[<>"].*', "", call.arguments.split(root)[-1]).strip("/") or "."
    flags = " ".join(_FLAG.findall(call.arguments))
    return Step(call.name, path, flags, call.result, call.began, call.ended)


def plain(path: str) -> str:
    """Return a path without digests."""
    return _TENANT.sub("TENANT", _UNIQUE.sub("UNIQUE.new", _DIGEST.sub("DIGEST", path)))


def broken_rules(found: Sequence[Step]) -> Iterator[str]:
    """Say which promises about the order the calls break."""
    opened = [s for s in found if s.name == "openat" and "O_CREAT" in s.flags and s.path.endswith(".new")]
    renamed = [s for s in found if s.name == "rename"]
    answered = [s for s in found if s.name == "answer 201"]
    if not (len(opened) == len(renamed) == len(answered) == 1):
        yield f"expected one new file, one rename and one answer; found {len(opened)}, {len(renamed)}, {len(answered)}"
        return
    new, rename, answer = opened[0], renamed[0], answered[0]
    own = [s for s in found if s.path == new.path]
    written = [s for s in own if s.name == "write"]
    synced = [s for s in own if s.name == "fsync"]
    read = [s for s in own if s.name == "read"]
    if not {"O_CREAT", "O_EXCL", "O_NOFOLLOW", "0600"} <= set(new.flags.split()):
        yield f"the new file is opened with {new.flags}"
    if Path(new.path).parent != Path(rename.path).parent:
        yield "the new file is not in the directory of its last name"
    if not (written and synced and max(s.ended for s in written) < synced[0].began):
        yield "the file is not synced after its last byte"
    if not (synced and read and synced[0].ended < read[0].began and read[-1].ended < rename.began):
        yield "the file is not read back between the sync and the rename"
    yield from _broken_after_rename(found, rename, answer)


def _broken_after_rename(found: Sequence[Step], rename: Step, answer: Step) -> Iterator[str]:
    names = [s for s in found if s.path.startswith("names.sqlite-wal") and s.name == "pwrite64"]
    for directory in map(str, Path(rename.path).parents):
        synced = [s for s in found if s.name == "fsync" and s.path == directory and s.began > rename.ended]
        if not synced:
            yield f"the directory {directory} is not synced after the rename"
        elif names and min(s.ended for s in synced) > names[0].began:
            yield f"the names are written before the directory {directory} is synced"
    if not names or names[0].began < rename.ended:
        yield "the names are written before the bytes have theirs"
    syncs = [s for s in found if s.path.startswith("names.sqlite-wal") and s.name in ("fdatasync", "fsync")]
    if not (names and syncs and names[-1].ended < syncs[-1].began and syncs[-1].ended < answer.began):
        yield "the names are not synced between their last byte and the answer"
    if any(s.began > answer.began and s.name in ("write", "pwrite64", "rename", "fsync", "fdatasync") for s in found):
        yield "something is written after the answer"


def shown(found: Sequence[Step]) -> Iterator[str]:
    """Return lines for a reader; the same call on the same file again is counted."""
    last, times = "", 0
    for step in found:
        line = f"{step.name:11}{plain(step.path)}{'  ' + step.flags if step.flags else ''}"
        if line != last:
            yield from [f"{last}  x {times}" if times > 1 else last] if last else []
            last, times = line, 0
        times += 1
    yield f"{last}  x {times}" if times > 1 else last


def publish_under_strace() -> list[Step]:
    """Publish a second version on a server of its own; return what it did."""
    with tempfile.TemporaryDirectory() as folder:
        backbone, root = save_tiny_backbone(Path(folder) / "backbone"), Path(folder) / "store"
        with serving(backbone, root.as_uri()) as server, httpx.Client(base_url=server.url, timeout=60) as client:
            task = RandomTask.on(client, "watched", NUM_VIRTUAL_TOKENS)
            task.publish(task.draw())
            raw = task.draw()
            with watching(server.process.pid, (*STORAGE, *ANSWER)) as watch:
                task.publish(raw)
        return steps(watch.calls, root)


def main() -> None:
    """Run and print; exit with 1 when a rule is broken."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not has_strace():
        raise SystemExit("strace is not installed, or may not look at processes; on Debian: apt install strace")
    found = publish_under_strace()
    print("\n".join(shown(found)))
    broken = list(broken_rules(found))
    print("\n".join(broken or ["the order is kept: sync, read back, rename, sync of every directory, names, answer"]))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
