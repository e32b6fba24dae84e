"""What strace wrote is read rightly, an order that is not kept is named, and faults of a publish are judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.publish_faults import Fault, calls_of_a_publish, faults, try_fault
from bench.publish_order import Step, broken_rules, publish_under_strace, steps
from bench.system_calls import SystemCall, has_strace, parse

ROOT = Path("/store")
NEW = "blobs/TENANT/1b/" + "a" * 32 + ".new"
SEEN = f"""\
11 openat(AT_FDCWD</>, "{ROOT}/{NEW}", O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW, 0600) = 7<{ROOT}/{NEW}>
11 write(7<{ROOT}/{NEW}>, "..."..., 300) = 300
11 fsync(7<{ROOT}/{NEW}> <unfinished ...>
12 sendto(5<socket:[1]>, "\\0", 1, 0, NULL, 0) = 1
11 <... fsync resumed>)              = 0
11 read(7<{ROOT}/{NEW}>, "..."..., 300) = 300
11 read(7<{ROOT}/{NEW}>, "", 1) = 0
11 rename("{ROOT}/{NEW}", "{ROOT}/blobs/TENANT/1b/b") = 0
11 fsync(7<{ROOT}/blobs/TENANT/1b>) = 0
11 fsync(7<{ROOT}/blobs/TENANT>) = 0
11 fsync(7<{ROOT}/blobs>) = 0
11 fsync(7<{ROOT}>) = 0
13 pwrite64(4<{ROOT}/names.sqlite-wal>, "..."..., 4096, 0) = 4096
13 fdatasync(4<{ROOT}/names.sqlite-wal>) = 0
12 sendto(5<TCP:[1]>, "HTTP/1.1 201 Created"..., 700, 0, NULL, 0) = 700
"""


def kept() -> list[Step]:
    return steps(parse(SEEN), ROOT)


def at(found: list[Step], *order: int) -> list[Step]:
    """The same steps in another order of time."""
    return [replace(found[index], began=10 * time, ended=10 * time + 1) for time, index in enumerate(order)]


def test_an_interrupted_call_is_one_call() -> None:
    (fsync,) = [call for call in parse(SEEN) if call.name == "fsync" and ".new" in call.arguments]
    assert fsync == SystemCall(11, "fsync", f"7<{ROOT}/{NEW}> ", 0, 2, 4)
    (injected,) = parse("7 fsync(3</x>) = -1 EIO (Input/output error) (INJECTED)\n")
    assert (injected.result, "(INJECTED)" in injected.note) == (-1, True)


def test_the_right_order_breaks_no_rule() -> None:
    found = kept()
    assert [step.name for step in found] == [
        *("openat", "write", "fsync", "read", "rename", "fsync", "fsync", "fsync", "fsync"),
        *("pwrite64", "fdatasync", "answer 201"),
    ]
    assert list(broken_rules(found)) == []


@pytest.mark.parametrize(
    ("order", "rule"),
    [
        ((0, 2, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11), "not synced after its last byte"),
        ((0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 10, 11), "not read back"),
        ((0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11), "blobs/TENANT/1b is not synced"),
        ((0, 1, 2, 3, 4, 5, 6, 7, 9, 8, 10, 11), "names are written before the directory . is synced"),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 10), "not synced between their last byte and the answer"),
        ((0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 9), "something is written after the answer"),
    ],
)
def test_a_wrong_order_is_named(order: tuple[int, ...], rule: str) -> None:
    assert any(rule in broken for broken in broken_rules(at(kept(), *order)))


def test_a_name_that_could_be_followed_is_named() -> None:
    found = kept()
    found[0] = replace(found[0], flags="O_CREAT 0644")
    assert list(broken_rules(found)) == ["the new file is opened with O_CREAT 0644"]


@pytest.mark.skipif(not has_strace(), reason="strace is not installed, or may not look at processes")
class TestWithStrace:
    @pytest.mark.parametrize(
        ("fault", "answer"),
        [
            (Fault("fsync", 1, "error=EIO"), "StoreUnavailableError"),
            (Fault("pwrite64", 9, "error=ENOSPC"), "StoreFullError"),
            (Fault("write", 1, "retval=7"), "StoreCorruptError"),
            (Fault("short write", 1000, "of the bytes"), "StoreFullError"),
        ],
    )
    def test_a_fault_is_told_and_nothing_is_lost(self, fault: Fault, answer: str) -> None:
        outcome = try_fault(fault)
        assert (outcome.was_hit, outcome.said.split(":")[0], outcome.wrong) == (True, answer, ())

    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_a_server_answers_last(self) -> None:
        assert list(broken_rules(publish_under_strace())) == []

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_every_call_may_fail(self) -> None:
        outcomes = [try_fault(fault) for fault in faults(*calls_of_a_publish())]
        assert [outcome for outcome in outcomes if outcome.wrong] == []
        assert sum(outcome.was_hit for outcome in outcomes) > 100
