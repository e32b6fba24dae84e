"""`softmux inspect`: a folder that it has never seen, explained with a server and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cli_stub import Softmux
from safetensors.torch import save_file
from saved_checkpoints import KV_WIDTH, WIDTH, N, few_shot_file, lama_file, peft, prefix_model, write_json
from wire_server import Server

from prompt_store.formats.recognise import FAMILIES
from server.cli.checkpoints.families import FATES, PEFT

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def alone(softmux: Softmux) -> Softmux:
    """A command line that asks no server."""
    return lambda *words: softmux(*words, "--offline")


def prefix_folder(folder: Path, **tensors: torch.Tensor) -> str:
    save_file(prefix_model() | tensors, folder / "model.safetensors")
    named = {"architectures": ["BertPrefixForSequenceClassification"], "pre_seq_len": N}
    write_json(folder / "config.json", **named)
    return str(folder)


class TestAlone:
    def explained(self, alone: Softmux, path: str) -> dict[str, Any]:
        explained: dict[str, Any] = alone("inspect", path, "--json").json
        assert explained["server"] is None
        return explained

    def test_peft(self, alone: Softmux, tmp_path: Path) -> None:
        told = self.explained(alone, peft(tmp_path, peft_type="P_TUNING")[0])

        assert told["family"] == "peft"
        assert told["kind"] == "generation"
        assert "no encoder is run" in told["becomes"]
        assert told["tensors"] == {"prompt_embeddings": f"[{N}, {WIDTH}] F32"}
        assert told["missing"] == []

    def test_p_tuning_v2(self, alone: Softmux, tmp_path: Path) -> None:
        told = self.explained(alone, prefix_folder(tmp_path, **{"bert.embeddings.x": torch.zeros(1)}))

        assert (told["family"], told["kind"], told["left_out"]) == ("ptuning-v2", "sequence-classification", 1)
        assert "pooler" in told["reads"]
        assert told["tensors"]["prefix_encoder.embedding.weight"] == f"[{N}, {KV_WIDTH}] F32"
        assert any("--labels" in note for note in told["notes"])

    def test_a_head_without_labels_is_asked_for_none(self, alone: Softmux, tmp_path: Path) -> None:
        head = {"qa_outputs.weight": torch.zeros(2, WIDTH), "qa_outputs.bias": torch.zeros(2)}
        prefix = {"prefix_encoder.embedding.weight": torch.zeros(N, KV_WIDTH)}
        save_file(prefix | head, tmp_path / "model.safetensors")

        told = self.explained(alone, str(tmp_path))

        assert told["kind"] == "question-answering"
        assert not any("--labels" in note for note in told["notes"])

    def test_a_projection_is_baked(self, alone: Softmux, tmp_path: Path) -> None:
        told = self.explained(alone, prefix_folder(tmp_path, **{"prefix_encoder.trans.0.weight": torch.zeros(2, 2)}))

        assert "baked once" in told["becomes"]

    def test_what_is_missing_is_named_with_its_option(self, alone: Softmux, tmp_path: Path) -> None:
        torch.save(lama_file(template=None), tmp_path / "epoch_5.ckpt")

        told = self.explained(alone, str(tmp_path / "epoch_5.ckpt"))

        assert (told["family"], told["kind"]) == ("ptuning-v1", "label-words")
        assert [one["option"].split(",")[0] for one in told["missing"]] == ["--template", "--label-words"]
        out = alone("inspect", str(tmp_path / "epoch_5.ckpt")).out
        assert "missing" in out
        assert "--label-words" in out

    def test_a_few_shot_folder_without_its_backbone(self, alone: Softmux, tmp_path: Path) -> None:
        torch.save(few_shot_file(), tmp_path / "embeddings.pth")

        told = self.explained(alone, str(tmp_path))

        assert told["family"] == "ptuning-few-shot"
        assert any("not in the folder" in note for note in told["notes"])

    @pytest.mark.parametrize(
        ("tensors", "family"),
        [
            ({"prompt_embeddings": torch.zeros(2, 4)}, "peft-without-config"),
            ({"h.0.lora_A.weight": torch.zeros(2, 4)}, "lora"),
        ],
    )
    def test_a_family_that_is_refused_is_named(
        self, alone: Softmux, tmp_path: Path, tensors: dict[str, torch.Tensor], family: str
    ) -> None:
        save_file(tensors, tmp_path / "prompt.safetensors")

        ended = alone("inspect", str(tmp_path), "--json")

        assert ended.code == 1
        assert ended.json["family"] == family
        assert family in ended.json["refusal"]

    def test_lora_by_its_config(self, alone: Softmux, tmp_path: Path) -> None:
        ended = alone("inspect", *peft(tmp_path, peft_type="LORA"))

        assert ended.code == 1
        assert "LORA changes the backbone's layers" in ended.out

    def test_a_manifest_beside_it_is_pointed_at(self, alone: Softmux, tmp_path: Path) -> None:
        write_json(tmp_path / "manifest.json")

        assert any("--manifest" in note for note in self.explained(alone, peft(tmp_path)[0])["notes"])

    def test_a_server_that_was_named_must_answer(self, softmux: Softmux, tmp_path: Path) -> None:
        assert softmux("inspect", *peft(tmp_path), "--url", NOBODY).code == 3


def test_what_becomes_of_every_family_is_told() -> None:
    assert {family.name for family in FAMILIES if family.needs} == FATES.keys() | {PEFT}


class TestWithAServer:
    def test_says_what_it_would_be(self, server: Server, softmux: Softmux, tmp_path: Path) -> None:
        words = ("inspect", *peft(tmp_path), "--url", server.url)

        ended, told = softmux(*words), softmux(*words, "--json").json["verdict"]

        assert ended.code == 0
        assert f"{server.url} takes it: generation, prompt-tuning, 4 virtual tokens" in ended.out
        assert told["template"] == "<soft:4>{text}"
        assert "no tasks here" in softmux("ls", "--url", server.url).out

    def test_says_why_not(self, server: Server, softmux: Softmux, tmp_path: Path) -> None:
        wide = {"prompt_embeddings": torch.zeros(N, 2 * WIDTH)}

        ended = softmux("inspect", *peft(tmp_path, wide, token_dim=2 * WIDTH), "--url", server.url)

        assert ended.code == 1
        assert "would refuse it" in ended.out
        assert "prompt is 16 wide" in ended.out

    def test_an_artifact(self, server: Server, softmux: Softmux, tmp_path: Path) -> None:
        at = ("--url", server.url)
        version = softmux("push", *peft(tmp_path), "--task", "t", "--json", *at).json["version"]
        softmux("export-artifact", "t", "-o", str(tmp_path / "t.safetensors"), *at)

        told = softmux("inspect", str(tmp_path / "t.safetensors"), "--json", *at).json

        assert told["family"] == "artifact"
        assert told["verdict"]["version"] == version
