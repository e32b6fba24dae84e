"""`softmux push`: what leaves the publisher's machine."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from cli_stub import V1, Canned, Softmux, Stub
from safetensors.torch import load

PUBLISHED = {
    "task": "acme/sentiment",
    "version": V1,
    "format": "peft",
    "method": "prompt-tuning",
    "kind": "generation",
    "num_virtual_tokens": 4,
    "size_bytes": 2048,
    "checks": ["weights unverified"],
}


def parts_of(body: bytes) -> dict[str, bytes]:
    """Split a multipart body at its own boundary."""
    boundary = body.split(b"\r\n", 1)[0]
    parts = [part.partition(b"\r\n\r\n") for part in body.split(boundary)[1:-1]]
    return {head.split(b'name="')[1].split(b'"')[0].decode(): content[:-2] for head, _, content in parts}


class TestPush:
    route = "POST /v1/tenants/acme/tasks/sentiment/versions"

    def test_sends_the_files_as_they_are(self, stub: Stub, softmux: Softmux, peft_folder: Path) -> None:
        stub.on(self.route, Canned(201, PUBLISHED))

        ended = softmux("push", str(peft_folder), "--task", "acme/sentiment")

        parts = parts_of(stub.asked[0].body)
        assert ended.code == 0
        assert "a1a1a1a1a1a1" in ended.out
        assert "weights unverified" in ended.out
        assert parts["weights"] == (peft_folder / "adapter_model.safetensors").read_bytes()
        assert parts["config"] == b'{"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM"}'
        assert parts["alias"] == b"live"
        assert "manifest" not in parts

    def test_options_win_over_the_manifest_file(
        self, stub: Stub, softmux: Softmux, peft_folder: Path, tmp_path: Path
    ) -> None:
        stub.on(self.route, Canned(201, PUBLISHED))
        file = tmp_path / "manifest.json"
        file.write_text('{"max_length": 10, "description": "mine"}')
        options = ["--template", r"<soft:4>{text}\nIt was", "--label-words", '{"good": " great", "bad": [" bad", "x"]}']

        softmux(
            "push",
            str(peft_folder),
            "--task",
            "acme/sentiment",
            "--manifest",
            str(file),
            "--max-length",
            "64",
            *options,
        )

        assert json.loads(parts_of(stub.asked[0].body)["manifest"]) == {
            "max_length": 64,
            "description": "mine",
            "template": "<soft:4>{text}\nIt was",
            "label_words": {"good": [" great"], "bad": [" bad", "x"]},
        }

    def test_a_pickle_is_sent_as_safetensors(self, stub: Stub, softmux: Softmux, peft_folder: Path) -> None:
        stub.on(self.route, Canned(201, PUBLISHED))
        (peft_folder / "adapter_model.safetensors").unlink()
        shared = torch.arange(32.0).reshape(4, 8)
        torch.save({"prompt_embeddings": shared, "tied": shared}, peft_folder / "adapter_model.bin")

        ended = softmux("push", str(peft_folder), "--task", "acme/sentiment")

        assert ended.code == 0
        assert torch.equal(load(parts_of(stub.asked[0].body)["weights"])["prompt_embeddings"], shared)

    def test_a_pickle_that_runs_code_is_refused_here(self, stub: Stub, softmux: Softmux, peft_folder: Path) -> None:
        (peft_folder / "adapter_model.safetensors").unlink()
        torch.save({"prompt_embeddings": Path("x")}, peft_folder / "adapter_model.bin")

        ended = softmux("push", str(peft_folder), "--task", "acme/sentiment")

        assert ended.code == 2
        assert "not a plain pickle of tensors" in ended.err
        assert stub.asked == []

    def test_dry_run_asks_for_a_plan(self, stub: Stub, softmux: Softmux, peft_folder: Path) -> None:
        stub.on("POST /v1/plan", Canned(200, PUBLISHED))

        assert softmux("push", str(peft_folder), "--task", "acme/sentiment", "--dry-run", "--force").code == 0
        parts = parts_of(stub.asked[0].body)
        assert (parts["task"], parts["force"]) == (b"acme/sentiment", b"true")
        assert "alias" not in parts

    def test_a_folder_without_a_checkpoint_says_what_it_holds(self, softmux: Softmux, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello")

        ended = softmux("push", str(tmp_path), "--task", "acme/sentiment")

        assert ended.code == 2
        assert "notes.txt" in ended.err
