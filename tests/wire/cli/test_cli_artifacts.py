"""`export-artifact`, artifacts pushed again, and rows of a multitask prompt, against a real server."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from cli_stub import V1, V2, Canned, Softmux, Stub
from saved_checkpoints import WIDTH, N, peft
from wire_server import Server


@pytest.fixture(autouse=True)
def real_url(server: Server, softmux: Softmux, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the command line at the real server (after `softmux` has pointed it at the stub)."""
    monkeypatch.setenv("SOFTMUX_URL", server.url)


@pytest.mark.parametrize("target", ["", "@live", "@{version}", "@{digits}"])
def test_an_export_is_the_version_on_another_server(
    server: Server, softmux: Softmux, tmp_path: Path, target: str
) -> None:
    version = softmux("push", *peft(tmp_path), "--task", "acme/story", "--json").json["version"]
    file = tmp_path / "story.safetensors"
    reference = "acme/story" + target.format(version=version, digits=version[:15])

    exported = softmux("export-artifact", reference, "-o", str(file), "--json")

    assert exported.json["version"] == version
    assert f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" == version
    server.renew()
    assert softmux("push", str(file), "--task", "moved", "--json").json["version"] == version
    assert "default/moved" in softmux("push", str(file), "--task", "moved").out
    assert softmux("push", str(file), "--task", "moved", "--dry-run", "--json").json["version"] == version


def test_an_export_names_its_file_itself(softmux: Softmux, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = softmux("push", *peft(tmp_path), "--task", "story", "--json").json["version"]
    monkeypatch.chdir(tmp_path)

    assert softmux("export-artifact", "story").code == 0
    assert (tmp_path / f"story-{version[7:19]}.safetensors").stat().st_size > 0


@pytest.mark.parametrize(
    ("reference", "code", "told"),
    [
        ("story@canary", 2, "no alias 'canary'; it has: live"),
        ("story@sha256:ffffffff", 2, "no version starts with"),
        ("story@", 2, "behind its @"),
        ("nowhere", 1, "nowhere"),
    ],
)
def test_what_cannot_be_exported(softmux: Softmux, tmp_path: Path, reference: str, code: int, told: str) -> None:
    softmux("push", *peft(tmp_path), "--task", "story")

    ended = softmux("export-artifact", reference, "-o", str(tmp_path / "file"))

    assert (ended.code, told in ended.err) == (code, True), ended.err
    assert not (tmp_path / "file").exists()


def test_an_artifact_takes_no_options(softmux: Softmux, tmp_path: Path) -> None:
    softmux("push", *peft(tmp_path), "--task", "story")
    file = tmp_path / "file.safetensors"
    softmux("export-artifact", "story", "-o", str(file))

    ended = softmux("push", str(file), "--task", "story", "--labels", "a,b")

    assert ended.code == 2
    assert "published as it is" in ended.err


def test_new_words_on_a_base_version(softmux: Softmux, tmp_path: Path) -> None:
    version = softmux("push", *peft(tmp_path), "--task", "story", "--json").json["version"]

    changed = softmux("push", "--task", "story", "--base-version", version[7:15], "--max-length", "9", "--json")

    assert changed.code == 0, changed.err
    assert changed.json["version"] != version


@pytest.mark.parametrize(("wanted", "rows"), [("all", (0, 1, 2)), ("0,2", (0, 2))])
def test_every_row_of_a_multitask_prompt_is_a_task(
    softmux: Softmux, tmp_path: Path, wanted: str, rows: tuple[int, ...]
) -> None:
    cols = torch.arange(1.0, 4).view(3, 1, 1).expand(3, N, 1).contiguous() / 100
    factors = {"prefix_task_cols": cols, "prefix_task_rows": torch.ones(3, 1, WIDTH)}
    words = peft(tmp_path, factors, peft_type="MULTITASK_PROMPT_TUNING")

    reports = softmux("push", *words, "--task", "acme/many", "--task-ids", wanted, "--json").json

    assert [report["task"] for report in reports] == [f"acme/many-{row}" for row in rows]
    assert len({report["version"] for report in reports}) == len(rows)
    assert softmux("push", *words, "--task", "one", "--set", "prompt_task_id=1").code == 0
    assert softmux("push", *words, "--task", "one", "--task-ids", "7").code == 2


def test_task_ids_are_for_multitask_prompts(softmux: Softmux, tmp_path: Path) -> None:
    ended = softmux("push", *peft(tmp_path), "--task", "story", "--task-ids", "all")

    assert ended.code == 2
    assert "multitask" in ended.err


class TestDownloads:
    """A server that hands out something else."""

    @pytest.fixture(autouse=True)
    def stub_url(self, real_url: None, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOFTMUX_URL", stub.url)

    def test_wrong_bytes_leave_the_file_as_it_was(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        aliases = [{"alias": "live", "targets": [{"version": V1, "weight": 100}]}]
        stub.on("GET /v1/tasks/t", Canned(200, {"task": "t", "versions": [{"version": V1}], "aliases": aliases}))
        stub.on(f"GET /v1/tasks/t/versions/{V1}/artifact", Canned(200, "something else", "application/x"))
        file = tmp_path / "kept"
        file.write_text("before")

        ended = softmux("export-artifact", "t", "-o", str(file))

        assert ended.code == 4
        assert "was asked for" in ended.err
        assert file.read_text() == "before"
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]

    def test_a_weighted_alias_names_no_version(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        targets = [{"version": V1, "weight": 90}, {"version": V2, "weight": 10}]
        record = {"task": "t", "versions": [{"version": V1}, {"version": V2}]}
        stub.on("GET /v1/tasks/t", Canned(200, record | {"aliases": [{"alias": "live", "targets": targets}]}))

        ended = softmux("export-artifact", "t", "-o", str(tmp_path / "file"))

        assert ended.code == 2
        assert "a1a1a1a1a1a1, b2b2b2b2b2b2" in ended.err
