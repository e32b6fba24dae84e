"""The command line against `softmux serve` in a process of its own: a real backbone, real prompts, a real store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_stub import Softmux
from engine_cases import backbone_directory
from peft_cases import save_peft
from served_process import serving

from server.cli.calibration import calibrated, measure, publish_with
from server.cli.client import Client
from server.cli.errors import RefusedError
from server.cli.options import parse_task

pytestmark = pytest.mark.timeout(180)  # each server process imports torch and transformers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    backbone_directory("gpt2", folder / "backbone")
    save_peft("gpt2", "PREFIX_TUNING", "CAUSAL_LM", folder / "story", n=5)
    save_peft("gpt2", "PROMPT_TUNING", "CAUSAL_LM", folder / "mood", n=4)
    save_peft("gpt2", "P_TUNING", "SEQ_CLS", folder / "topic", n=3)
    return folder


@pytest.fixture(scope="module")
def url(folders: Path) -> Iterator[str]:
    with serving(folders / "backbone", folders / "store") as url:
        yield url


@pytest.fixture(autouse=True)
def real_url(url: str, softmux: Softmux, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the command line at the real server (after `softmux` has pointed it at the stub)."""
    monkeypatch.setenv("SOFTMUX_URL", url)


def test_generation(softmux: Softmux, folders: Path) -> None:
    assert softmux("push", str(folders / "story"), "--task", "acme/story").code == 0
    words = ("infer", "acme/story", "hello", "--param", "max_new_tokens=8")

    whole, streamed = softmux(*words, "--json"), softmux(*words, "--stream")

    assert whole.json["usage"]["output_tokens"] <= 8
    assert streamed.out == whole.json["outputs"][0]["text"] + "\n"


def test_label_words_and_classification_with_a_head(softmux: Softmux, folders: Path) -> None:
    label_words = '{"up": "a", "down": ["b", "c"]}'
    assert softmux("push", str(folders / "mood"), "--task", "mood", "--label-words", label_words).code == 0
    assert softmux("push", str(folders / "topic"), "--task", "topic", "--labels", "x,y,z").code == 0

    mood, topic = softmux("infer", "mood", "hi", "--json").json, softmux("infer", "topic", "hi", "--json").json

    assert {score["label"] for score in mood["outputs"][0]["scores"]} == {"up", "down"}
    assert {score["label"] for score in topic["outputs"][0]["scores"]} == {"x", "y", "z"}


def test_calibration_is_a_version_that_divides_by_what_nothing_answers(softmux: Softmux, folders: Path) -> None:
    words = '{"up": "a", "down": ["b", "c"]}'
    pushed = softmux("push", str(folders / "mood"), "--task", "calm", "--label-words", words, "--json").json
    asked = ("infer", "calm", "the", "--json", "--param", "words=true")
    told = softmux(*asked).json["outputs"][0]

    ended = softmux("calibrate", "calm", "--input", "the", "--json")

    assert ended.code == 0, ended.err
    assert ended.json["version"] != pushed["version"]
    means = {label: [word["logits"] for word in ones] for label, ones in told["words"].items()}
    assert ended.json["prior"] == means
    # The prior is of this very text, so its words are all equally likely now.
    calibrated = softmux(*asked).json["outputs"][0]
    assert [score["score"] for score in calibrated["scores"]] == pytest.approx([0.5, 0.5], abs=1e-6)
    assert softmux("rollback", "calm").code == 0
    assert softmux(*asked).json["outputs"][0] == told
    assert softmux("calibrate", "calm").code == 2
    assert softmux("calibrate", "calm", "--input", "{").code == 2


def test_calibration_takes_no_alias_from_others(softmux: Softmux, folders: Path) -> None:
    words = ('{"up": "a", "down": "b"}', '{"up": "b", "down": "c"}')
    one, two = [
        softmux("push", str(folders / "mood"), "--task", "split", "--label-words", said, "--json").json["version"]
        for said in words
    ]
    for moves in ((f"live={one[7:19]}:90", f"live={two[7:19]}:10"), (f"live={one[7:19]}", "--max-error-rate", "0.5")):
        assert softmux("alias", "split", f"live={two[7:19]}").code == 0
        assert softmux("alias", "split", *moves).code == 0
        before = softmux("show", "split", "--json").json
        refused = softmux("calibrate", "split", "--input", "the")
        assert refused.code == 2
        assert "end the canary first" in " ".join(refused.err.replace("│", " ").split())
        assert softmux("show", "split", "--json").json == before


def test_calibration_moves_no_alias_that_was_moved_meanwhile(softmux: Softmux, folders: Path, url: str) -> None:
    one, two = [
        softmux("push", str(folders / "mood"), "--task", "moved", "--label-words", said, "--json").json["version"]
        for said in ('{"up": "a", "down": "b"}', '{"up": "b", "down": "c"}')
    ]
    with Client(url) as client:
        seen = calibrated(client, parse_task("moved"), "live")
        prior = measure(client, seen, ["the"])
        assert softmux("alias", "moved", f"live={one[7:19]}").code == 0
        with pytest.raises(RefusedError) as refused:
            publish_with(client, seen, prior, is_dry_run=False, is_quiet=True)
    assert (seen.version, refused.value.detail["type"]) == (two, "serial_conflict")
    assert "is not live: measure again" in refused.value.hints[0]
    shown = softmux("show", "moved", "--json").json
    assert [target["version"] for target in shown["aliases"][0]["targets"]] == [one]
    assert len(shown["versions"]) == 3


def test_versions_and_aliases(softmux: Softmux, folders: Path) -> None:
    first = softmux("push", str(folders / "topic"), "--task", "turn", "--labels", "a,b,c", "--json").json["version"]
    second = softmux("push", str(folders / "topic"), "--task", "turn", "--labels", "d,e,f", "--json").json["version"]

    assert softmux("infer", "turn", "hi", "--json").json["version"] == second
    assert softmux("alias", "turn", f"live={first[7:19]}").code == 0
    assert softmux("infer", "turn", "hi", "--json").json["version"] == first
    assert softmux("rollback", "turn").code == 0
    assert softmux("infer", "turn", "hi", "--json").json["version"] == second
    assert first[7:19] in softmux("show", "turn").out
    assert "default/turn" in softmux("ls", "turn").out
    assert "default/turn" in softmux("ls", "default/").out
    assert "no tasks here" in softmux("ls", "elsewhere/").out


def test_what_does_not_fit_is_refused_with_its_reason(softmux: Softmux, folders: Path) -> None:
    ended = softmux("push", str(folders / "topic"), "--task", "t", "--labels", "only,two")

    assert ended.code == 1
    assert "labels" in ended.err
    assert softmux("show", "t").code == 1


def test_a_dry_run_stores_nothing(softmux: Softmux, folders: Path) -> None:
    assert softmux("push", str(folders / "mood"), "--task", "dry", "--dry-run").code == 0
    assert softmux("show", "dry").code == 1


def test_unknown_parameters_are_named(softmux: Softmux, folders: Path) -> None:
    assert softmux("push", str(folders / "story"), "--task", "acme/story").code == 0

    ended = softmux("infer", "acme/story", "x", "--param", "temprature=1", "--json")

    assert ended.code == 1
    assert "temprature" in json.loads(ended.err)["error"]["param"]


@pytest.mark.slow
def test_published_tasks_are_there_after_a_restart(softmux: Softmux, folders: Path, tmp_path: Path) -> None:
    with serving(folders / "backbone", tmp_path / "store") as url:
        assert softmux("push", str(folders / "story"), "--task", "story", "--url", url).code == 0
        before = softmux("infer", "story", "hello", "--url", url, "--json").json
    with serving(folders / "backbone", tmp_path / "store") as url:
        after = softmux("infer", "story", "hello", "--url", url, "--json").json

    assert (after["version"], after["outputs"]) == (before["version"], before["outputs"])
