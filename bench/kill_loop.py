"""Kill a publisher again and again, and count what it had acknowledged and the disk store lost: none may be.

`python -m bench.kill_loop --rounds 1000`. Half of the rounds die at a random time, half at a named failpoint.
kill -9 leaves the page cache alone: that bytes reach the disk in order is shown by `bench.publish_order`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.kill_child import HALF_WRITTEN, TASK
from prompt_store.disk import blobs, sqlite_transactions
from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.errors import NotFoundError, StoreError
from prompt_store.refs import LIVE, Version
from prompt_store.store import AliasState, TaskRecord

ROUNDS_A_STORE = 50  # everything is read again after each, so a store that grew for ever would take all the time
RANDOM_TIME = "at a random time"
PLACES = (HALF_WRITTEN, *blobs.FAILPOINTS, *sqlite_transactions.FAILPOINTS)
ROOT = Path(__file__).parents[1]


@dataclass
class Tally:
    """What happened in the rounds that died at one place. `lost` and `torn` say what, for each fault."""

    rounds: int = 0
    publishes: int = 0
    lost: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)


@dataclass
class Acknowledged:
    """What children told before they died."""

    puts: set[Version] = field(default_factory=set)  # of the last child only: later collects may take the unnamed
    commits: set[Version] = field(default_factory=set)
    moves: dict[int, Version] = field(default_factory=dict)
    deleted: set[Version] = field(default_factory=set)
    in_doubt: set[Version] = field(default_factory=set)

    def hear(self, told: str) -> int:
        """Take in what one child told, whole lines; return how many publishes it acknowledged."""
        self.puts = set()
        words = [line.split() for line in told.splitlines(keepends=True) if line.endswith("\n")]
        for call, version, *rest in words:
            if call == "move":
                self.moves[int(rest[0])] = Version(version)
            else:
                {"put": self.puts, "commit": self.commits, "deleting": self.in_doubt, "deleted": self.deleted}[
                    call
                ].add(Version(version))
        return sum(call == "move" for call, *_ in words)


def main() -> None:
    """Run as many rounds as asked and print the table; exit with 1 when anything was lost or torn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    tallies: dict[str, Tally] = {}
    rng = random.Random(chosen.seed)
    for first in range(0, chosen.rounds, ROUNDS_A_STORE):
        with tempfile.TemporaryDirectory() as folder:
            rounds = range(first, min(first + ROUNDS_A_STORE, chosen.rounds))
            _add(tallies, kill_loop(Path(folder) / "store", rounds, rng))
    print(table(tallies))
    sys.exit(any(tally.lost or tally.torn for tally in tallies.values()))


def kill_loop(root: Path, rounds: Sequence[int], rng: random.Random) -> dict[str, Tally]:
    """Kill a publisher of one store in each round, then look at the store; return a tally by place of death."""
    tallies: dict[str, Tally] = {}
    acknowledged = Acknowledged()
    for index in rounds:
        place = RANDOM_TIME if index % 2 else PLACES[index // 2 % len(PLACES)]
        told = _one_death(root, index, place, rng)
        tally = tallies.setdefault(place, Tally())
        tally.rounds += 1
        tally.publishes += acknowledged.hear(told)
        lost, torn = asyncio.run(_faults(root, acknowledged))
        tally.lost += lost
        tally.torn += torn
    return tallies


def _add(tallies: dict[str, Tally], more: dict[str, Tally]) -> None:
    for place, tally in more.items():
        known = tallies.setdefault(place, Tally())
        known.rounds += tally.rounds
        known.publishes += tally.publishes
        known.lost += tally.lost
        known.torn += tally.torn


def table(tallies: dict[str, Tally]) -> str:
    """Return the tallies as lines of text, a total at the end."""
    total = Counter[str]()
    lines = [f"{'killed':28}{'rounds':>8}{'publishes':>11}{'lost':>6}{'torn':>6}"]
    for place, tally in sorted(tallies.items()):
        row = {
            "rounds": tally.rounds,
            "publishes": tally.publishes,
            "lost": len(tally.lost),
            "torn": len(tally.torn),
        }
        total.update(row)
        lines.append(_line(place, row))
        lines += [f"    {fault}" for fault in (*tally.lost, *tally.torn)]
    return "\n".join([*lines, _line("total", total)])


def _line(name: str, row: dict[str, int]) -> str:
    return f"{name:28}{row['rounds']:>8}{row['publishes']:>11}{row['lost']:>6}{row['torn']:>6}"


def _one_death(root: Path, index: int, place: str, rng: random.Random) -> str:
    is_random = place == RANDOM_TIME
    command = [sys.executable, "-m", "bench.kill_child", str(root), str(index), "" if is_random else place]
    child = subprocess.Popen([*command, str(rng.randint(1, 12))], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child, child.stdout as out:
        told = ""
        if is_random:
            told = out.readline()  # it lives
            time.sleep(rng.uniform(0, 0.2))
            child.kill()
        told += out.read()
    if child.returncode != -9:
        raise RuntimeError(f"the publisher ended with {child.returncode} before it was killed; see its error above")
    return told


async def _faults(root: Path, acknowledged: Acknowledged) -> tuple[list[str], list[str]]:
    store = DiskStore(root, DiskOptions(max_artifact_bytes=1 << 20, min_free_ratio=0))
    try:
        lost = [f"put {v}" for v in sorted(acknowledged.puts - acknowledged.in_doubt) if not await _is_read(store, v)]
        try:
            record, history = await store.resolve(TASK), await store.history(TASK, LIVE)
        except NotFoundError:
            record, history = TaskRecord(TASK, ()), ()
        lost += _lost_names(record, history, acknowledged)
        torn = [f"version {v.version}" for v in record.versions if not await _is_read(store, v.version)]
        torn += _torn_names(root, record, history)
    finally:
        await store.close()
    return lost, torn


async def _is_read(store: DiskStore, version: Version) -> bool:
    try:
        raw = await store.get(TASK.tenant, version)
    except StoreError:
        return False
    return "sha256:" + hashlib.sha256(raw).hexdigest() == version


def _lost_names(record: TaskRecord, history: tuple[AliasState, ...], acknowledged: Acknowledged) -> list[str]:
    found = {version.version for version in record.versions}
    moves = {state.serial: state.targets[0].version for state in history}
    lost = [f"commit {version}" for version in sorted(acknowledged.commits - acknowledged.in_doubt - found)]
    lost += [f"move {serial}" for serial, version in acknowledged.moves.items() if moves.get(serial) != version]
    return lost + [f"delete {version}" for version in sorted(acknowledged.deleted & found)]


def _torn_names(root: Path, record: TaskRecord, history: tuple[AliasState, ...]) -> list[str]:
    found = {version.version for version in record.versions}
    torn = [f"alias {a}" for a, state in record.aliases.items() if not {t.version for t in state.targets} <= found]
    if [state.serial for state in history] != list(range(1, len(history) + 1)):
        torn.append("serials")
    names = sqlite3.connect(root / "names.sqlite")
    if names.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
        torn.append("names.sqlite")
    names.close()
    return torn


if __name__ == "__main__":
    main()
