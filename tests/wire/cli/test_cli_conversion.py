"""`softmux push` of what people have besides PEFT: what leaves their machine, and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_checkpoints import Sketchy
from cli_stub import V1, Canned, Softmux, Stub
from safetensors.torch import save_file
from saved_checkpoints import WIDTH, N, few_shot_file, lama_encoder, lama_file, nemo, peft, prefix_model, write_json
from sent_checkpoints import BACKBONE, REPORT, ROUTE, Sent, parts_of, pushed

from prompt_store.backbone_files import hash_weights, weight_files

LABEL_WORDS = '{"good": " great"}'


@pytest.fixture(autouse=True)
def answers(stub: Stub) -> None:
    stub.on(ROUTE, Canned(201, REPORT))
    stub.on("GET /v1/backbone", Canned(200, BACKBONE))


def whole_model() -> dict[str, torch.Tensor]:
    """Return a P-Tuning v2 model as its Trainer saves it, with the buffers of its day."""
    backbone = {
        "bert.embeddings.word_embeddings.weight": torch.zeros(300, WIDTH),
        "bert.embeddings.position_ids": torch.arange(512)[None],
        "bert.encoder.layer.0.output.dense.weight": torch.zeros(WIDTH, WIDTH),
        "bert.pooler.dense.weight": torch.eye(WIDTH),
        "bert.pooler.dense.bias": torch.zeros(WIDTH),
    }
    return backbone | prefix_model()


TRAINED = {"prefix_encoder.embedding.weight", "classifier.weight", "classifier.bias"}
POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


class TestModels:
    @pytest.mark.parametrize("form", ["pytorch_model.bin", "model.safetensors"])
    def test_only_prompt_head_and_pooler_are_sent(
        self, stub: Stub, softmux: Softmux, tmp_path: Path, form: str
    ) -> None:
        save = save_file if form.endswith("safetensors") else torch.save
        save(whole_model(), tmp_path / form)
        torch.save(Sketchy(), tmp_path / "training_args.bin")
        write_json(tmp_path / "config.json", architectures=["BertPrefixForSequenceClassification"], pre_seq_len=N)

        ended = pushed(softmux, tmp_path)

        sent = Sent(stub)
        assert sent.tensors.keys() == TRAINED | POOLER
        assert all(torch.equal(tensor, whole_model()[name]) for name, tensor in sent.tensors.items())
        assert sent.config["architectures"] == ["BertPrefixForSequenceClassification"]
        assert "the backbone in the file stays here" in ended.err

    def test_shards_are_put_together(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        model = whole_model()
        halves = {"one.safetensors": sorted(model)[:4], "two.safetensors": sorted(model)[4:]}
        for file, names in halves.items():
            save_file({name: model[name] for name in names}, tmp_path / file)
        homes = {name: file for file, names in halves.items() for name in names}
        write_json(tmp_path / "model.safetensors.index.json", weight_map=homes)

        pushed(softmux, tmp_path, "--kind", "sequence-classification")

        assert Sent(stub).tensors.keys() == TRAINED | POOLER

    def test_double_precision_is_sent_as_single(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        save_file({"embeds": torch.full((N, WIDTH), 0.1, dtype=torch.float64)}, tmp_path / "prompt.safetensors")

        ended = pushed(softmux, tmp_path)

        assert Sent(stub).tensors["embeds"].dtype == torch.float32
        assert "float64 is sent as float32" in ended.err

    def test_a_state_dict_inside_another(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        torch.save({"epoch": 3, "state_dict": prefix_model()}, tmp_path / "best.pt")

        ended = pushed(softmux, tmp_path / "best.pt", "--kind", "sequence-classification")

        assert Sent(stub).tensors.keys() == TRAINED
        assert "epoch beside it stay here" in ended.err

    def test_a_config_from_elsewhere(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        template = {"prompt_model.template.soft_embeds": torch.ones(N, WIDTH)}
        backbone = {
            "prompt_model.plm.h.weight": torch.ones(2),
            "prompt_model.template.raw_embedding.weight": torch.ones(2),
        }
        torch.save(template | backbone, tmp_path / "best.ckpt")
        (tmp_path / "run.yaml").write_text("freeze_plm: true\n")
        words = ("--config", str(tmp_path / "run.yaml"), "--kind", "generation")

        pushed(softmux, tmp_path / "best.ckpt", *words)

        assert Sent(stub).tensors.keys() == template.keys()
        assert Sent(stub).config == {"freeze_plm": True}

    def test_rows_without_a_name(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        torch.save(torch.nn.Parameter(torch.ones(N, WIDTH)), tmp_path / "prompt.pt")

        pushed(softmux, tmp_path / "prompt.pt")

        assert Sent(stub).tensors.keys() == {"embeds"}

    @pytest.mark.parametrize("as_list", [list, torch.nn.ParameterList])
    def test_lists_of_tensors_are_numbered(
        self, stub: Stub, softmux: Softmux, tmp_path: Path, as_list: Callable[[list[torch.Tensor]], object]
    ) -> None:
        pairs = [torch.ones(1, 2, N, 4), torch.ones(1, 2, N, 4)]
        torch.save({"trainable_keys": as_list(pairs), "trainable_values": as_list(pairs)}, tmp_path / "cache.pt")

        pushed(softmux, tmp_path / "cache.pt")

        kinds = ("keys", "values")
        assert Sent(stub).tensors.keys() == {f"trainable_{kind}.{layer}" for kind in kinds for layer in (0, 1)}


class TestArchives:
    def test_the_rows_that_nemos_encoder_reads_are_sent(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        unfilled = {"prompt_table.prompt_table.mood.prompt_embeddings.weight": torch.zeros(N, WIDTH)}
        encoder = {"embeddings.weight": torch.ones(N, WIDTH), "mlp_head.0.weight": torch.eye(WIDTH)}
        torch.save(unfilled | encoder, tmp_path / "model_weights.ckpt")

        pushed(softmux, tmp_path, "--template", "<soft:4>{text}", "--kind", "generation")

        assert Sent(stub).tensors.keys() == (unfilled | encoder).keys()

    def test_nemo(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        nemo(tmp_path / "prompt.nemo")

        pushed(softmux, tmp_path / "prompt.nemo", "--kind", "generation")

        sent = Sent(stub)
        assert sent.tensors.keys() == {"prompt_table.prompt_table.mood.prompt_embeddings.weight"}
        assert sent.config == {"task_templates": [{"taskname": "mood", "total_virtual_tokens": 4}]}

    def test_a_prefix_store_of_tgis(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        torch.save(torch.ones(N, WIDTH), tmp_path / "decoder.pt")
        (tmp_path / "config.yml").write_text('verbalizer: "{{input}}"\ntrained_torch_dtype: float32\n')

        pushed(softmux, tmp_path)

        sent = Sent(stub)
        assert sent.tensors.keys() == {"decoder"}
        assert sent.config["verbalizer"] == "{{input}}"

    def test_an_array_of_t5x(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        np.save(tmp_path / "prompt.npy", np.ones((N, WIDTH)))

        assert softmux("inspect", str(tmp_path / "prompt.npy"), "--offline", "--json").json["family"] == "t5x"


class TestPTuningV1:
    def test_the_arguments_become_the_config(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        torch.save(lama_file(), tmp_path / "epoch_5_dev_0.5_test_0.5.ckpt")

        pushed(softmux, tmp_path, "--label-words", LABEL_WORDS)

        sent = Sent(stub)
        assert sent.config == {"model_name": "gpt2", "template": [2, 2, 0], "use_lm_finetune": False}
        assert sent.tensors.keys() == lama_encoder().keys()
        assert sent.manifest == {"label_words": {"good": [" great"]}}

    def test_a_few_shot_prompt_names_the_backbone_beside_it(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        torch.save(few_shot_file(), tmp_path / "embeddings.pth")
        jsonpickled = {"py/object": "pet.wrapper.WrapperConfig", "task_name": "rte", "label_list": ["yes", "no"]}
        write_json(tmp_path / "wrapper_config.json", **jsonpickled)
        save_file({"transformer.wte.weight": torch.zeros(300, WIDTH)}, tmp_path / "model.safetensors")

        pushed(softmux, tmp_path, "--label-words", LABEL_WORDS, "--template", "{text}<soft:1>")

        sent = Sent(stub)
        assert sent.config == {"task_name": "rte", "label_list": ["yes", "no"]}
        assert "mlp.0.weight" in sent.tensors
        weights = hash_weights(weight_files(tmp_path))
        assert sent.manifest["fingerprint"] == {"arch": "a" * 64, "weights": weights}


class TestSaying:
    def test_set_reaches_any_field(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        folder = tmp_path / "prompt"
        folder.mkdir()
        peft(folder)
        write_json(tmp_path / "said.json", generation={"seed": 1}, max_length=9)
        pairs = ["--set", "generation.max_new_tokens=7", "--set", "pool=first", "--set", "max_length=10"]

        pushed(softmux, folder, "--manifest", str(tmp_path / "said.json"), *pairs, "--max-length", "11")

        assert Sent(stub).manifest == {
            "generation": {"seed": 1, "max_new_tokens": 7},
            "pool": "first",
            "max_length": 11,
        }

    def test_a_base_version_needs_no_folder(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("GET /v1/tasks/t", Canned(200, {"versions": [{"version": V1}]}))

        ended = softmux("push", "--task", "t", "--base-version", "a1a1a1a1", "--labels", "no,yes")

        parts = parts_of(stub.asked[-1].body)
        assert ended.code == 0, ended.err
        assert parts["base_version"] == V1.encode()
        assert json.loads(parts["manifest"]) == {"labels": ["no", "yes"]}
        assert "weights" not in parts

    def test_a_task_on_the_bare_backbone_needs_no_folder(self, stub: Stub, softmux: Softmux) -> None:
        ended = softmux("push", "--task", "t", "--kind", "embedding", "--template", "{text}")

        parts = parts_of(stub.asked[-1].body)
        assert ended.code == 0, ended.err
        assert json.loads(parts["manifest"]) == {"kind": "embedding", "template": "{text}"}
        assert "weights" not in parts

    @pytest.mark.parametrize(
        "words",
        [
            (),
            ("--base-version", V1),
            ("--base-version", V1, "--labels", "no,yes", "--task-ids", "all"),
            ("--kind", "embedding", "--config", "config.json"),
            (".", "--task-ids", "one"),
            (".", "--set", "novalue"),
            (".", "--set", ".a=1"),
        ],
    )
    def test_wrong_words_are_usage(self, stub: Stub, softmux: Softmux, words: tuple[str, ...]) -> None:
        ended = softmux("push", *words, "--task", "t")

        assert ended.code == 2
        assert "Traceback" not in ended.err
        assert stub.asked == []

    def test_the_options_that_a_refusal_asks_for_are_named(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        reasons = ["where a single-layer head reads is not known for model type 'x': say pool in the manifest"]
        stub.on(ROUTE, Canned(422, {"error": {"type": "unknown_checkpoint", "message": "no", "reasons": reasons}}))

        ended = softmux("push", *peft(tmp_path), "--task", "t")

        assert ended.code == 1
        assert "hint: pool is said with --set pool=.." in ended.err


class TestOpenPrompt:
    TEXT = '{"soft"} {"placeholder": "text_a"} It was {"mask"}.'

    def test_the_text_of_its_template_travels_in_the_config(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        run = {"template": {"soft_embeds": torch.ones(N, WIDTH)}, "plm": {"wte.weight": torch.ones(9, WIDTH)}}
        run["verbalizer"] = {"label_words_ids": torch.ones(2, 1, 1, dtype=torch.int64)}
        torch.save({"state_dict": run, "validation_metric": 0.9}, tmp_path / "best.ckpt")
        write_json(tmp_path / "run.json", freeze_plm=True, template="soft_template", soft_template={"num_tokens": N})

        config = ("--config", str(tmp_path / "run.json"), "--openprompt-template", self.TEXT)
        ended = pushed(softmux, tmp_path / "best.ckpt", *config)

        assert ended.code == 0, ended.err
        sent = Sent(stub)
        assert sent.config["template"] == {"num_tokens": N, "text": self.TEXT}
        assert sent.tensors.keys() == {"template.soft_embeds", "verbalizer.label_words_ids"}

    def test_the_option_is_for_its_runs_alone(self, softmux: Softmux, tmp_path: Path) -> None:
        save_file({"embeds": torch.ones(N, WIDTH)}, tmp_path / "rows.safetensors")
        rows = str(tmp_path / "rows.safetensors")
        ended = softmux("push", rows, "--task", "t", "--openprompt-template", self.TEXT)
        assert (ended.code, "is for runs of OpenPrompt" in ended.err) == (2, True)
