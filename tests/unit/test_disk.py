"""What a disk store does when the disk, another process or an intruder gets in the way."""

import asyncio
import contextlib
import errno
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_store.digest import version_of
from prompt_store.disk.blobs import BlobFiles, Reserve
from prompt_store.disk.files import Files
from prompt_store.disk.layout import blob_parts, inside
from prompt_store.disk.sqlite_tables import SqliteTables, create_schema
from prompt_store.disk.store import DiskOptions, DiskStore
from prompt_store.errors import (
    InvalidNameError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    VersionNotFoundError,
)
from prompt_store.memory import MemoryStore
from prompt_store.open import open_store
from prompt_store.refs import LIVE, Alias, TaskName, Version
from prompt_store.store import AliasState, Target, VersionRecord

pytestmark = pytest.mark.anyio

RAW = b"an artifact" * 1000
VERSION = version_of(RAW)
TASK = TaskName("acme", "sentiment")


def options(**changes: object) -> DiskOptions:
    return DiskOptions(**{"min_free_ratio": 0, "max_artifact_bytes": 1 << 20, **changes})  # type: ignore[arg-type]


def record_of(version: Version) -> VersionRecord:
    return VersionRecord(version, 0.0, "ann", "peft", "p-tuning", "generation", 1, 3, "s", "m")


def blob_of(root: Path, version: Version = VERSION, tenant: str = "acme") -> Path:
    return inside(root, *blob_parts(tenant, version))


def files_in(root: Path) -> list[Path]:
    return sorted(path for path in (root / "blobs").rglob("*") if path.is_file())


class RecordingFiles(Files):
    """Real files that write down what was asked, and let the n-th call of all fail."""

    def __init__(self, fail_at: int = -1, error: int = errno.EIO) -> None:
        self.calls: list[tuple[str, str]] = []
        self._fail_at = fail_at
        self._error = error
        self._names: dict[int, str] = {}
        self._lock = threading.Lock()

    def _note(self, call: str, path: str) -> None:
        with self._lock:
            self.calls.append((call, path))
            fails = len(self.calls) - 1 == self._fail_at
        if fails:
            raise OSError(self._error, os.strerror(self._error))

    def create(self, path: Path) -> int:
        self._note("create", str(path))
        descriptor = super().create(path)
        self._names[descriptor] = str(path)
        return descriptor

    def write(self, descriptor: int, raw: memoryview) -> int:
        self._note("write", self._names[descriptor])
        return super().write(descriptor, raw[: max(1, len(raw) // 2)])  # the system may write less than asked

    def sync(self, descriptor: int) -> None:
        self._note("sync", self._names[descriptor])
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._note("rename", str(target))
        super().rename(source, target)

    def sync_directory(self, path: Path) -> None:
        self._note("sync_directory", str(path))
        super().sync_directory(path)

    def make_directory(self, path: Path) -> None:
        self._note("make_directory", str(path))
        super().make_directory(path)

    def read(self, path: Path) -> bytes:
        self._note("read", str(path))
        return super().read(path)


def blob_files(root: Path, files: Files) -> BlobFiles:
    root.mkdir(exist_ok=True)
    return BlobFiles(root, Reserve(0, 0.0), files)


class TestOrder:
    def test_a_publish_syncs_the_file_then_renames_then_syncs_every_directory(self, tmp_path: Path) -> None:
        files = RecordingFiles()
        blob_files(tmp_path, files).write("acme", VERSION, RAW)
        blob = blob_of(tmp_path)
        calls = [call for call in files.calls if call[0] != "make_directory"]
        temporary = next(path for call, path in calls if call == "create")
        after_create = [call for call in calls[calls.index(("create", temporary)) :] if call[0] != "write"]
        assert after_create == [
            ("create", temporary),
            ("sync", temporary),
            ("read", temporary),
            ("rename", str(blob)),
            ("sync_directory", str(blob.parent)),
            ("sync_directory", str(blob.parent.parent)),
            ("sync_directory", str(blob.parent.parent.parent)),
            ("sync_directory", str(tmp_path)),
        ]
        assert Path(temporary).parent == blob.parent
        assert calls.index(("sync", temporary)) > max(i for i, call in enumerate(calls) if call[0] == "write")

    def test_bytes_that_are_there_are_settled_before_they_are_acknowledged_again(self, tmp_path: Path) -> None:
        blob_files(tmp_path, Files()).write("acme", VERSION, RAW)
        files = RecordingFiles()
        blob_files(tmp_path, files).write("acme", VERSION, RAW)
        assert [call for call, _ in files.calls] == ["read", *["sync_directory"] * 4]

    def test_files_are_private(self, tmp_path: Path) -> None:
        blob_files(tmp_path, Files()).write("acme", VERSION, RAW)
        assert {path.stat().st_mode & 0o777 for path in files_in(tmp_path)} == {0o600}
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "blobs").rglob("*") if path.is_dir()} == {0o700}

    @pytest.mark.parametrize(
        ("error", "expected"), [(errno.ENOSPC, StoreFullError), (errno.EIO, StoreUnavailableError)]
    )
    def test_any_call_may_fail_and_nothing_is_torn(
        self, tmp_path: Path, error: int, expected: type[StoreError]
    ) -> None:
        whole = RecordingFiles()
        blob_files(tmp_path / "whole", whole).write("acme", VERSION, RAW)
        num_failed = 0
        for index in range(len(whole.calls)):
            root = tmp_path / str(index)
            failing = blob_files(root, RecordingFiles(index, error))
            try:
                failing.write("acme", VERSION, RAW)
            except StoreError as found:
                num_failed += type(found) is expected
            names = [path.name for path in files_in(root)]
            assert names in ([], [blob_of(root).name])
            again = blob_files(root, Files())
            again.write("acme", VERSION, RAW)
            assert again.read("acme", VERSION) == RAW
        # The first look may fail unseen: then the bytes are simply written.
        assert num_failed == len(whole.calls) - 1


MANY = {version_of(raw): raw for raw in (RAW, b"two" * 100, b"three" * 100)}


class TestManyAtOnce:
    def test_every_file_is_synced_before_any_is_renamed_and_each_directory_once(self, tmp_path: Path) -> None:
        files = RecordingFiles()
        blob_files(tmp_path, files).write_many("acme", MANY)
        looks = [("read", str(blob_of(tmp_path, version))) for version in MANY]
        order = [call for call in files.calls if call[0] not in ("make_directory", "write") and call not in looks]
        kinds = [kind for kind, _ in itertools.groupby(call for call, _ in order)]
        assert kinds == ["create", "sync", "read", "rename", "sync_directory"]
        assert [call for call, _ in order].count("rename") == 3
        synced = [path for call, path in files.calls if call == "sync_directory"]
        assert len(synced) == len(set(synced)) == 6  # three of two digits, and those above
        assert all(blob_files(tmp_path, Files()).read("acme", version) == raw for version, raw in MANY.items())

    def test_more_than_may_be_open_at_once(self, tmp_path: Path) -> None:
        raws = {version_of(b"%d" % index): b"%d" % index for index in range(200)}
        blobs = blob_files(tmp_path, Files())
        blobs.write_many("acme", raws)
        assert [blobs.read("acme", version) for version in raws] == list(raws.values())
        assert len(files_in(tmp_path)) == 200

    @pytest.mark.parametrize(
        ("error", "expected"), [(errno.ENOSPC, StoreFullError), (errno.EIO, StoreUnavailableError)]
    )
    def test_any_call_may_fail_and_nothing_is_torn(
        self, tmp_path: Path, error: int, expected: type[StoreError]
    ) -> None:
        whole = RecordingFiles()
        blob_files(tmp_path / "whole", whole).write_many("acme", MANY)
        num_failed = 0
        for index in range(len(whole.calls)):
            root = tmp_path / str(index)
            failing = blob_files(root, RecordingFiles(index, error))
            try:
                failing.write_many("acme", MANY)
            except StoreError as found:
                num_failed += type(found) is expected
            assert {path.name for path in files_in(root)} <= {blob_of(root, version).name for version in MANY}
            again = blob_files(root, Files())
            again.write_many("acme", MANY)
            assert all(again.read("acme", version) == raw for version, raw in MANY.items())
        assert num_failed == len(whole.calls) - len(MANY)  # each first look may fail unseen


class TestDamage:
    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobFiles:
        blobs = blob_files(tmp_path, Files())
        blobs.write("acme", VERSION, RAW)
        return blobs

    @pytest.mark.parametrize(
        "spoil", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: b"x" + raw[1:], lambda r: r + r]
    )
    def test_other_bytes_are_never_returned_and_a_put_heals_them(
        self, store: BlobFiles, tmp_path: Path, spoil: Callable[[bytes], bytes]
    ) -> None:
        blob_of(tmp_path).write_bytes(spoil(RAW))
        with pytest.raises(StoreCorruptError, match="publish them again"):
            store.read("acme", VERSION)
        store.write("acme", VERSION, RAW)
        assert store.read("acme", VERSION) == RAW

    def test_a_link_is_not_followed(self, store: BlobFiles, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_bytes(RAW)
        blob_of(tmp_path).unlink()
        blob_of(tmp_path).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreCorruptError, match="plain file"):
            store.read("acme", VERSION)
        store.write("acme", VERSION, RAW)
        assert not blob_of(tmp_path).is_symlink()

    def test_a_pipe_does_not_hang_the_reader(self, store: BlobFiles, tmp_path: Path) -> None:
        blob_of(tmp_path).unlink()
        os.mkfifo(blob_of(tmp_path))
        with pytest.raises(StoreCorruptError, match="plain file"):
            store.read("acme", VERSION)

    def test_what_the_disk_gives_back_is_checked(self, tmp_path: Path) -> None:
        class Forgetful(Files):
            def read(self, path: Path) -> bytes:
                return super().read(path)[:-1]

        with pytest.raises(StoreCorruptError, match="other bytes"):
            blob_files(tmp_path, Forgetful()).write("acme", VERSION, RAW)
        assert files_in(tmp_path) == []

    async def test_names_that_are_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "names.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
        with pytest.raises(StoreCorruptError, match="backup"):
            DiskStore(tmp_path, options())

    async def test_a_newer_store_is_refused(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "names.sqlite") as names:
            names.execute("PRAGMA user_version = 99")
        names.close()
        with pytest.raises(StoreUnavailableError, match="schema 99"):
            DiskStore(tmp_path, options())

    async def test_a_root_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreUnavailableError, match="open the store"):
            DiskStore(tmp_path / "file" / "store", options())


class TestRoom:
    async def test_puts_are_refused_in_the_reserve(self, tmp_path: Path) -> None:
        store = DiskStore(tmp_path, options(min_free_ratio=0.05, disk_usage=lambda _: (100 << 30, 0, (5 << 30) - 1)))
        with pytest.raises(StoreFullError, match="reserve"):
            await store.put("acme", RAW)
        await store.close()

    async def test_the_reserve_holds_two_of_the_largest_uploads(self, tmp_path: Path) -> None:
        free = (2 << 20) - 1
        store = DiskStore(tmp_path, options(disk_usage=lambda _: (100 << 20, 0, free)))
        with pytest.raises(StoreFullError, match=str(2 << 20)):
            await store.put("acme", RAW)
        free += 1
        assert await store.put("acme", RAW) == VERSION
        await store.close()

    async def test_bytes_that_are_there_need_no_room(self, tmp_path: Path) -> None:
        free = 100 << 20
        store = DiskStore(tmp_path, options(disk_usage=lambda _: (100 << 20, 0, free)))
        await store.put("acme", RAW)
        free = 0
        assert await store.put("acme", RAW) == VERSION
        await store.close()


class TestSharing:
    async def test_two_stores_on_one_root_see_each_other(self, tmp_path: Path) -> None:
        first, second = DiskStore(tmp_path, options(poll_s=0.01)), DiskStore(tmp_path, options(poll_s=0.01))
        since = await second.sequence()
        changes = second.changes(since)
        await first.put("acme", RAW)
        await first.commit(TASK, record_of(VERSION))
        assert (await anext(changes)).task == TASK
        assert await second.get("acme", VERSION) == RAW
        assert (await second.move(TASK, LIVE, (Target(VERSION),), 0, "ann")).serial == 1
        assert (await first.move(TASK, LIVE, (Target(VERSION),), 1, "ann")).serial == 2
        assert (await first.sequence()).epoch == since.epoch
        await first.close()
        await second.close()

    async def test_a_writer_that_holds_the_names_too_long_is_named(self, tmp_path: Path) -> None:
        store = DiskStore(tmp_path, options(busy_timeout_s=0.01))
        await store.put("acme", RAW)
        await store.commit(TASK, record_of(VERSION))
        other = sqlite3.connect(tmp_path / "names.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            await store.move(TASK, LIVE, (Target(VERSION),), None, "ann")
        assert (await store.resolve(TASK)).aliases == {}  # readers do not wait
        other.execute("ROLLBACK")
        other.close()
        assert (await store.move(TASK, LIVE, (Target(VERSION),), None, "ann")).serial == 1
        await store.close()

    def test_processes_that_open_and_publish_at_once_lose_nothing(self, tmp_path: Path) -> None:
        script = (
            "import asyncio, sys\n"
            "from pathlib import Path\n"
            "from prompt_store.disk.store import DiskOptions, DiskStore\n"
            "from prompt_store.refs import LIVE, TaskName\n"
            "from prompt_store.store import Target, VersionRecord\n"
            "async def main(root, who):\n"
            "    store = DiskStore(Path(root), DiskOptions(min_free_ratio=0, max_artifact_bytes=1 << 20))\n"
            "    task = TaskName('acme', 'sentiment')\n"
            "    for index in range(10):\n"
            "        version = await store.put('acme', f'{who}-{index}'.encode())\n"
            "        record = VersionRecord(version, 0.0, who, 'peft', 'p-tuning', 'generation', 1, 3, 's', 'm')\n"
            "        await store.commit(task, record)\n"
            "        await store.move(task, LIVE, (Target(version),), None, who)\n"
            "    await store.close()\n"
            "asyncio.run(main(*sys.argv[1:]))\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        children = [
            subprocess.Popen([sys.executable, "-c", script, str(tmp_path), f"w{index}"], env=environment)
            for index in range(3)
        ]
        assert [child.wait() for child in children] == [0, 0, 0]
        with sqlite3.connect(tmp_path / "names.sqlite") as names:
            counts = [names.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("versions", "states")]
            number = names.execute("SELECT number FROM store").fetchone()[0]
        names.close()
        assert (counts, number) == ([30, 30], 60)


class TestCollecting:
    async def test_bytes_that_vanished_are_written_again(self, tmp_path: Path) -> None:
        store = DiskStore(tmp_path, options())
        await store.put("acme", RAW)
        blob_of(tmp_path).unlink()
        with pytest.raises(VersionNotFoundError):
            await store.commit(TASK, record_of(VERSION))
        await store.put("acme", RAW)
        await store.commit(TASK, record_of(VERSION))
        assert await store.get("acme", VERSION) == RAW
        await store.close()

    async def test_a_collect_between_write_and_row_makes_the_put_write_again(self, tmp_path: Path) -> None:
        num_written = 0

        def lose_the_first(name: str) -> None:
            nonlocal num_written
            if name == "blob_settled":
                num_written += 1
                if num_written == 1:
                    blob_of(tmp_path).unlink()

        store = DiskStore(tmp_path, options(failpoint=lose_the_first))
        await store.put("acme", RAW)
        assert num_written == 2
        assert await store.get("acme", VERSION) == RAW
        await store.close()

    async def test_a_commit_between_the_two_steps_takes_the_tombstone_back(self, tmp_path: Path) -> None:
        rival = DiskStore(tmp_path, options())
        steps: list[str] = []

        def commit_after_the_first_step(name: str) -> None:
            steps.append(name)
            if steps.count("names_committed") == 2 and name == "names_committed":  # the put's, then the tombstone's
                asyncio.run(rival.commit(TASK, record_of(VERSION)))

        store = DiskStore(tmp_path, options(failpoint=commit_after_the_first_step))
        await store.put("acme", RAW)
        assert await store.collect(-1) == 0
        assert (await store.resolve(TASK)).versions == (record_of(VERSION),)
        assert await store.get("acme", VERSION) == RAW
        await store.close()
        await rival.close()

    async def test_a_collect_that_died_is_finished_by_the_next(self, tmp_path: Path) -> None:
        store = DiskStore(tmp_path, options())
        await store.put("acme", RAW)
        with sqlite3.connect(tmp_path / "names.sqlite") as names:
            names.execute("UPDATE blobs SET is_tombstone = 1")
        names.close()
        assert await store.collect(10**6) == len(RAW)
        assert files_in(tmp_path) == []
        await store.close()

    async def test_strays_go_when_no_writer_can_own_them(self, tmp_path: Path) -> None:
        store = DiskStore(tmp_path, options())
        await store.put("acme", RAW)
        await store.commit(TASK, record_of(VERSION))
        young = blob_of(tmp_path).with_name("0" * 32 + ".new")
        old = blob_of(tmp_path).with_name("1" * 32 + ".new")
        for path in (young, old):
            path.write_bytes(b"stray")
        os.utime(old, (0, 0))
        os.utime(blob_of(tmp_path), (0, 0))
        assert await store.collect(0) == 5
        assert files_in(tmp_path) == sorted([young, blob_of(tmp_path)])
        await store.close()


class TestNames:
    def test_a_long_past_of_an_alias_costs_a_resolve_nothing(self) -> None:
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            create_schema(connection)
            tables = SqliteTables(connection)
            tables.save_version(TASK, record_of(VERSION))
            steps: list[int] = []
            for serial in range(1, 1001):
                for alias in (LIVE, Alias("canary")):
                    tables.append_state(TASK, AliasState(alias, (Target(VERSION),), serial, "ann", 0.0))
                if serial in (10, 1000):
                    steps.append(self.steps_of(connection, lambda: tables.load(TASK)))
            found = tables.load(TASK)
        assert steps[1] <= steps[0] + 10  # of SQLite's machine
        assert found is not None
        assert {alias: state.serial for alias, state in found.aliases.items()} == {LIVE: 1000, Alias("canary"): 1000}

    @staticmethod
    def steps_of(connection: sqlite3.Connection, work: Callable[[], object]) -> int:
        num_steps = 0

        def step() -> int:
            nonlocal num_steps
            num_steps += 1
            return 0

        connection.set_progress_handler(step, 1)
        work()
        connection.set_progress_handler(None, 1)
        return num_steps


class TestPaths:
    @given(st.text(), st.text())
    def test_any_text_is_refused_or_stays_inside(self, tenant: str, version: str) -> None:
        root = Path("/srv/prompts")
        try:
            path = inside(root, *blob_parts(tenant, Version(version)))
        except InvalidNameError:
            return
        assert path.is_relative_to(root)

    @given(st.text())
    def test_any_tenant_becomes_digits(self, tenant: str) -> None:
        path = inside(Path("/srv/prompts"), *blob_parts(tenant, VERSION))
        assert len(path.parts) == len(Path("/srv/prompts").parts) + 4
        assert ".." not in path.parts

    @pytest.mark.parametrize("part", ["", ".", "..", "a/b", "/", "a\0", "A", ".a", "a.", "a..b"])
    def test_no_other_part_is_joined(self, part: str) -> None:
        with pytest.raises(ValueError, match="path"):
            inside(Path("/srv/prompts"), part)


class TestOpening:
    async def test_memory(self) -> None:
        store = open_store("memory:")
        assert isinstance(store, MemoryStore)
        await store.close()

    async def test_file(self, tmp_path: Path) -> None:
        store = open_store(f"file://{tmp_path}/a%20b/c", options())
        assert isinstance(store, DiskStore)
        assert (tmp_path / "a b" / "c" / "names.sqlite").is_file()
        await store.close()

    async def test_again_is_the_same_store(self, tmp_path: Path) -> None:
        first = open_store(f"file://{tmp_path}", options())
        await first.put("acme", RAW)
        sequence = await first.sequence()
        await first.close()
        second = open_store(f"file://{tmp_path}", options())
        assert (await second.sequence(), await second.get("acme", VERSION)) == (sequence, RAW)
        await second.close()

    @pytest.mark.parametrize(
        "url", ["", "/srv", "file:srv", "file://host/srv", "file:///srv?x=1", "s3://b", "redis+ring://h"]
    )
    def test_other_addresses_are_refused(self, url: str) -> None:
        with pytest.raises(InvalidNameError, match="file:///absolute/path"):
            open_store(url)
