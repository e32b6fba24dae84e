"""The command line against `softmux serve` on a tiny T5 in a process of its own: prompts are pushed and asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli_stub import Softmux
from engine_cases import backbone_directory
from peft_cases import load_peft, save_peft
from seq2seq_cases import T5PrefixTuningTemplate
from served_process import serving
from tiny_archs import tiny_config
from transformers import AutoTokenizer

pytestmark = pytest.mark.timeout(180)  # the server process imports torch and transformers

TEXT = "the film was great"
NUM_NEW = 6
WORDS = ("--param", f"max_new_tokens={NUM_NEW}", "--param", "ignore_eos=true", "--param", "temperature=0", "--json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    backbone_directory("t5", folder / "backbone")
    save_peft("t5", "PREFIX_TUNING", "SEQ_2_SEQ_LM", folder / "story", n=5)
    save_peft("t5", "MULTITASK_PROMPT_TUNING", "SEQ_2_SEQ_LM", folder / "many", n=4)
    (folder / "store").mkdir()
    for seed, (name, rows) in enumerate({"encoder": 4, "decoder": 2}.items()):
        torch.save(
            torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed)), folder / "store" / f"{name}.pt"
        )
    template = T5PrefixTuningTemplate(tiny_config("t5"))
    state = {f"prompt_model.template.{name}": tensor for name, tensor in template.state_dict().items()}
    (folder / "run").mkdir()
    torch.save({"state_dict": state}, folder / "run" / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def url(folders: Path) -> Iterator[str]:
    with serving(folders / "backbone", folders / "prompts") as url:
        yield url


@pytest.fixture(autouse=True)
def real_url(url: str, softmux: Softmux, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the command line at the real server (after `softmux` has pointed it at the stub)."""
    monkeypatch.setenv("SOFTMUX_URL", url)


def written_by_peft(folders: Path, adapter: str, **said: torch.Tensor) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folders / "backbone")
    model = load_peft("t5", folders / adapter)
    model.generation_config.eos_token_id = None
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    mask = torch.ones_like(ids)
    out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NUM_NEW, do_sample=False, **said)
    return str(tokenizer.decode(out[0, 1:], skip_special_tokens=True))


def written(softmux: Softmux, task: str) -> str:
    ended = softmux("infer", task, TEXT, *WORDS)
    assert ended.code == 0, ended.err
    return str(ended.json["outputs"][0]["text"])


def test_a_prefix_writes_what_peft_writes_and_so_does_its_copy(softmux: Softmux, folders: Path, tmp_path: Path) -> None:
    pushed = softmux("push", str(folders / "story"), "--task", "story", "--json")
    assert pushed.code == 0, pushed.err
    assert softmux("export-artifact", "story", "-o", str(tmp_path / "story.safetensors")).code == 0
    copied = softmux("push", str(tmp_path / "story.safetensors"), "--task", "copy", "--json")

    assert copied.json["version"] == pushed.json["version"]
    assert written(softmux, "story") == written(softmux, "copy") == written_by_peft(folders, "story")


def test_every_task_of_a_multitask_prompt(softmux: Softmux, folders: Path) -> None:
    pushed = softmux("push", str(folders / "many"), "--task", "many", "--task-ids", "all")
    assert pushed.code == 0, pushed.err

    for task_id in (0, 2):
        told = written_by_peft(folders, "many", task_ids=torch.tensor([task_id]))
        assert written(softmux, f"many-{task_id}") == told


def test_a_store_of_tgis_and_an_openprompt_run(softmux: Softmux, folders: Path) -> None:
    assert softmux("push", str(folders / "store"), "--task", "stored").code == 0
    words = ("--label-words", '{"up": "good", "down": ["bad"]}', "--set", "backbone_trained=false")
    template = ("--template", "<soft:5>{text_a} it was \\<extra_id_0>")
    pushed = softmux("push", str(folders / "run" / "best.ckpt"), "--task", "mood", *words, *template)
    assert pushed.code == 0, pushed.err

    mood = softmux("infer", "mood", TEXT, "--json")

    assert {score["label"] for score in mood.json["outputs"][0]["scores"]} == {"up", "down"}
    assert softmux("infer", "stored", TEXT, *WORDS).json["usage"]["output_tokens"] == NUM_NEW
