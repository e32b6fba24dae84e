"""`export`, `import` and `fsck` on stores that no server has open."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tarfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cli_stub import Softmux
from redis_fixtures import in_namespace
from redis_servers import RedisServer
from store_cases import LIVE, record_of

from prompt_store.digest import version_of
from prompt_store.disk.layout import blob_parts, inside
from prompt_store.disk.store import DiskStore
from prompt_store.open import open_store
from prompt_store.refs import Alias, TaskName, Version
from prompt_store.rules.tables import T
from prompt_store.store import PromptStore, Target, TaskCopy
from server.cli.backup.writing import export_store

NUM_TASKS = 300  # more than one ledger holds
SENTIMENT = TaskName("acme", "sentiment")


def in_store(url: str, work: Callable[[PromptStore], Awaitable[T]]) -> T:
    async def run() -> T:
        store = open_store(url, with_cache=False)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def fill(store: PromptStore) -> None:
    raws = tuple(b"artifact %d" % index for index in range(NUM_TASKS))
    versions = await store.put_many("acme", raws)
    tasks = tuple(
        TaskCopy(TaskName("acme", f"t{index}"), (record_of(version),), ()) for index, version in enumerate(versions)
    )
    await store.restore(tasks)
    for tenant in ("acme", "rival"):
        task = TaskName(tenant, "sentiment")
        for raw in (b"artifact 1", b"second"):
            version = await store.put(tenant, raw)
            await store.commit(task, record_of(version))
            await store.move(task, LIVE, (Target(version, 70),), None, "ann")
        await store.move(task, Alias("canary"), (Target(version_of(b"artifact 1")), Target(version, 3)), None, "bob")
        await store.rollback(task, LIVE, None, "cid")
        await store.quarantine(task, version, "non-finite")


async def everything(store: PromptStore) -> dict[TaskName, TaskCopy]:
    copies: dict[TaskName, TaskCopy] = {}
    for tenant in await store.tenants():
        for copy in await store.copies(tenant, "", 10**6):
            # Whether it came by an import is no part of what there is.
            tried = tuple(replace(record, is_untried=False) for record in copy.versions)
            copies[copy.task] = replace(copy, versions=tried)
            for record in copy.versions:
                assert version_of(await store.get(tenant, record.version)) == record.version
    return copies


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled") / "store"
    in_store(f"file://{root}", fill)
    return root


@pytest.fixture
def disk(filled: Path, tmp_path: Path) -> str:
    shutil.copytree(filled, tmp_path / "from")
    return f"file://{tmp_path}/from"


@pytest.fixture(scope="module")
def exported(filled: Path) -> bytes:
    file = filled.parent / "backup.tar"
    in_store(f"file://{filled}", lambda store: export_store(store, file, lambda _: None, lambda _: None))
    return file.read_bytes()


@pytest.fixture
def backup(exported: bytes, tmp_path: Path) -> Path:
    (tmp_path / "backup.tar").write_bytes(exported)
    return tmp_path / "backup.tar"


def test_a_store_moves_to_redis_and_back_with_all_it_has(
    softmux: Softmux, disk: str, backup: Path, tmp_path: Path, valkey: RedisServer
) -> None:
    redis, back, again = in_namespace(valkey.url), f"file://{tmp_path}/back", tmp_path / "again.tar"
    assert softmux("import", str(backup), redis, "--json").json["num_tasks"] == NUM_TASKS + 2
    exported = softmux("export", redis, str(again), "--json").json
    assert (exported["num_tasks"], exported["num_artifacts"]) == (NUM_TASKS + 2, NUM_TASKS + 3)
    assert "all are in the store" in softmux("import", str(again), back).out
    assert in_store(disk, everything) == in_store(redis, everything) == in_store(back, everything)
    assert len(in_store(back, everything)) == NUM_TASKS + 2


def test_importing_again_changes_nothing(softmux: Softmux, disk: str, backup: Path) -> None:
    before = in_store(disk, lambda store: store.sequence())
    assert softmux("import", str(backup), disk).code == 0
    assert in_store(disk, lambda store: store.sequence()) == before


def test_an_import_that_was_stopped_goes_on(softmux: Softmux, disk: str, backup: Path, tmp_path: Path) -> None:
    target = f"file://{tmp_path}/target"

    async def first_part(store: PromptStore) -> None:
        await store.put_many("acme", tuple(b"artifact %d" % index for index in range(20)))
        copies = tuple(copy for copy in in_disk.values() if copy.versions[0].version == version_of(b"artifact 7"))
        await store.restore(copies)

    in_disk = in_store(disk, everything)
    in_store(target, first_part)
    assert softmux("import", str(backup), target).code == 0
    assert in_store(target, everything) == in_disk


def test_a_task_that_differs_stays_and_is_named(softmux: Softmux, disk: str, backup: Path) -> None:
    in_store(disk, lambda store: store.rollback(SENTIMENT, LIVE, 1, "dan"))
    ended = softmux("import", str(backup), disk, "--json")
    assert (ended.code, ended.json["differing"]) == (1, ["acme/sentiment"])
    said = softmux("import", str(backup), disk).out.split()  # a line ends where the paths in it have made it long
    assert "stay as they are there: acme/sentiment" in " ".join(said)
    assert in_store(disk, everything)[SENTIMENT].states[-1].actor == "dan"


def test_a_file_that_is_cut_short_anywhere_brings_nothing(softmux: Softmux, backup: Path, tmp_path: Path) -> None:
    whole, target = backup.read_bytes(), f"file://{tmp_path}/target"
    for size in (0, 100, 512, 5000, len(whole) // 2, len(whole) // 2 // 512 * 512, whole.rindex(b"end.json")):
        backup.write_bytes(whole[:size])
        ended = softmux("import", str(backup), target)
        assert ended.code == 2, size
        assert "damaged" in ended.err or "not a backup" in ended.err
        assert not (tmp_path / "target").exists()


def test_one_bit_anywhere_is_noticed(softmux: Softmux, backup: Path, tmp_path: Path) -> None:
    whole, target = backup.read_bytes(), f"file://{tmp_path}/target"
    for part in (
        b"artifact 77",
        b'"actor":"cid"',
        b"artifacts/acme",
        b"tasks/",
        b'"num_tasks"',
        b"softmux-backup.json",
    ):
        raw = bytearray(whole)
        raw[whole.rindex(part) + 3] ^= 1
        backup.write_bytes(raw)
        assert softmux("import", str(backup), target).code == 2, part
        assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_tar_with_other_things_is_refused(softmux: Softmux, backup: Path, tmp_path: Path, kind: bytes) -> None:
    other = tmp_path / "other.tar"
    with tarfile.open(backup) as whole, tarfile.open(other, "w") as tar:
        head = whole.getmember("softmux-backup.json")
        tar.addfile(head, whole.extractfile(head))
        link = tarfile.TarInfo("artifacts/acme/" + "0" * 64)
        link.type, link.linkname = kind, "/etc/passwd"
        tar.addfile(link)
    assert "which no backup has" in softmux("import", str(other), f"file://{tmp_path}/target").err


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "artifacts/../" + "0" * 64, "artifacts/ACME/" + "0" * 64])
def test_a_tar_with_other_names_is_refused(softmux: Softmux, backup: Path, tmp_path: Path, name: str) -> None:
    other = tmp_path / "other.tar"
    with tarfile.open(backup) as whole, tarfile.open(other, "w") as tar:
        head = whole.getmember("softmux-backup.json")
        tar.addfile(head, whole.extractfile(head))
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert "which no backup has" in softmux("import", str(other), f"file://{tmp_path}/target").err


def test_a_file_that_is_no_backup(softmux: Softmux, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello" * 1000)
    assert "no tar" in softmux("import", str(tmp_path / "text"), f"file://{tmp_path}/target").err
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("readme"))
    assert "not a backup" in softmux("import", str(tmp_path / "some.tar"), f"file://{tmp_path}/target").err
    assert softmux("import", str(tmp_path / "missing"), f"file://{tmp_path}/target").code == 2


def test_a_folder_without_a_store_is_not_made_one(softmux: Softmux, tmp_path: Path) -> None:
    for words in (("export", f"file://{tmp_path}/none", str(tmp_path / "backup")), ("fsck", f"file://{tmp_path}/none")):
        ended = softmux(*words)
        assert (ended.code, "there is no store" in ended.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_memory_is_no_store_to_keep(softmux: Softmux, tmp_path: Path) -> None:
    assert softmux("export", "memory:", str(tmp_path / "backup")).code == 2


def test_a_server_that_does_not_answer(softmux: Softmux) -> None:
    assert softmux("fsck", "redis://127.0.0.1:1/0").code == 3


def test_an_export_that_fails_leaves_the_old_file(softmux: Softmux, disk: str, backup: Path, tmp_path: Path) -> None:
    before = backup.read_bytes()
    blob_of(tmp_path / "from", "acme", version_of(b"artifact 5")).unlink()
    assert softmux("export", disk, str(backup)).code == 1
    assert backup.read_bytes() == before
    assert [path for path in tmp_path.iterdir() if path.suffix == ".part"] == []


class TestFsck:
    def test_a_sound_store(self, softmux: Softmux, disk: str) -> None:
        ended = softmux("fsck", disk, "--json")
        assert (ended.code, ended.json["problems"]) == (0, [])
        assert (ended.json["num_tasks"], ended.json["num_versions"]) == (NUM_TASKS + 2, NUM_TASKS + 4)
        assert "sound: 302 tasks" in softmux("fsck", disk).out

    def test_bytes_that_rotted_or_are_gone(self, softmux: Softmux, disk: str, tmp_path: Path) -> None:
        blob_of(tmp_path / "from", "acme", version_of(b"artifact 5")).write_bytes(b"rotten")
        blob_of(tmp_path / "from", "rival", version_of(b"second")).unlink()
        ended = softmux("fsck", disk, "--json")
        assert ended.code == 1
        assert [(p["kind"], p["task"]) for p in ended.json["problems"]] == [
            ("unreadable", "acme/t5"),
            ("missing", "rival/sentiment"),
        ]
        assert "publish" in softmux("fsck", disk).out

    def test_repair_deletes_orphans_and_nothing_else(self, softmux: Softmux, disk: str, tmp_path: Path) -> None:
        in_store(disk, lambda store: store.put("acme", b"an upload that never finished"))
        stray = blob_of(tmp_path / "from", "acme", version_of(b"artifact 5")).with_suffix(".new")
        stray.write_bytes(b"half")
        os.utime(stray, (0, 0))
        before = in_store(disk, everything)
        found = softmux("fsck", disk, "--grace", "0", "--json").json
        assert (found["num_orphans"], found["orphan_bytes"], found["freed_bytes"]) == (2, 33, None)
        assert stray.exists()
        assert softmux("fsck", disk, "--json").json["num_orphans"] == 1  # the upload is younger than a day
        assert softmux("fsck", disk, "--grace", "0", "--repair", "--json").json["freed_bytes"] == 33
        assert softmux("fsck", disk, "--grace", "0", "--json").json["num_orphans"] == 0
        assert in_store(disk, everything) == before

    def test_names_that_point_nowhere_and_bytes_in_danger(self, softmux: Softmux, disk: str, tmp_path: Path) -> None:
        gone = version_of(b"second")

        async def harm(store: DiskStore) -> None:
            rows = store._transactions
            await rows.write(lambda t: t.remove_version(SENTIMENT, gone))
            row = await rows.read(lambda t: t.blob("acme", version_of(b"artifact 5")))
            assert row is not None
            await rows.write(lambda t: t.save_blob(type(row)(row.tenant, row.version, row.size_bytes, 0.0)))

        in_store(disk, harm)  # type: ignore[arg-type]
        ended = softmux("fsck", disk, "--repair", "--json")
        assert {(p["kind"], p["task"]) for p in ended.json["problems"]} == {
            ("dangling", "acme/sentiment"),
            ("endangered", "acme/t5"),
        }
        assert (ended.code, ended.json["freed_bytes"]) == (1, None)
        assert in_store(disk, lambda store: store.get("acme", version_of(b"artifact 5"))) == b"artifact 5"


def blob_of(root: Path, tenant: str, version: Version) -> Path:
    return inside(root, *blob_parts(tenant, version))
