"""What a disk store acknowledged survives kill -9, wherever it strikes."""

import random
from pathlib import Path

import pytest

from bench.kill_loop import PLACES, Tally, kill_loop, table


def faults(tallies: dict[str, Tally]) -> list[str]:
    return [fault for tally in tallies.values() for fault in (*tally.lost, *tally.torn)]


def test_five_deaths_lose_nothing(tmp_path: Path) -> None:
    tallies = kill_loop(tmp_path / "store", rounds=range(5), rng=random.Random(1))
    assert faults(tallies) == [], table(tallies)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_deaths_lose_nothing(tmp_path: Path) -> None:
    tallies = kill_loop(tmp_path / "store", rounds=range(200), rng=random.Random(2))
    assert faults(tallies) == [], table(tallies)
    assert set(PLACES) < set(tallies)
    assert sum(tally.publishes for tally in tallies.values()) >= 200


def test_a_loss_would_be_seen(tmp_path: Path) -> None:
    root = tmp_path / "store"
    kill_loop(root, rounds=range(2), rng=random.Random(3))
    for path in (root / "blobs").rglob("*"):
        if path.is_file():
            path.write_bytes(b"torn")
    tallies = kill_loop(root, rounds=range(1), rng=random.Random(4))
    assert faults(tallies)
