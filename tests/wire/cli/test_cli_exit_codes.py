"""Every way to fail has its exit code and no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_stub import Canned, Softmux, Stub, refusal


class TestExitCodes:
    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (refusal(404, "task_not_found", "no such task"), 1),
            (refusal(422, "unfit_artifact", "does not fit"), 1),
            (refusal(429, "queue_full", "try later"), 4),
            (refusal(503, "draining", "shutting down"), 4),
            (Canned(200, "<html>", "text/html"), 4),
            (Canned(404, {"detail": "Not Found"}), 1),
        ],
    )
    def test_follow_the_answer(self, stub: Stub, softmux: Softmux, answer: Canned, code: int) -> None:
        stub.on("GET /v1/tasks", answer)

        ended = softmux("ls")

        assert ended.code == code
        assert ended.err.startswith("error: ")
        assert "Traceback" not in ended.err

    def test_nobody_there(self, softmux: Softmux) -> None:
        ended = softmux("ls", "--url", "http://127.0.0.1:1")

        assert ended.code == 3
        assert "softmux demo" in ended.err

    @pytest.mark.parametrize(
        "words",
        [
            ("ls", "--url", "nowhere"),
            ("ls", "--url", "http://[::"),
            ("ls", "--key", "a\nb"),
            ("show", "Not A Name"),
            ("infer", "a/b/c", "text"),
            ("infer", "task", "text", "--param", "novalue"),
            ("alias", "task", "live"),
            ("alias", "task", "live=abc:x"),
            ("push", ".", "--task", "task", "--label-words", "{"),
            ("frobnicate",),
        ],
    )
    def test_wrong_words_are_usage(self, softmux: Softmux, words: tuple[str, ...]) -> None:
        ended = softmux(*words)

        assert ended.code == 2
        assert "Traceback" not in ended.err

    def test_json_errors_are_json(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("GET /v1/tasks/x", refusal(404, "task_not_found", "no task 'default/x'"))

        ended = softmux("show", "x", "--json")

        assert ended.out == ""
        assert json.loads(ended.err)["error"]["type"] == "task_not_found"
        assert json.loads(ended.err)["error"]["status"] == 404

    def test_every_reason_is_told(self, stub: Stub, softmux: Softmux, peft_folder: Path) -> None:
        reasons = ["prompt is 1024 wide", "label words without a read position"]
        stub.on("POST /v1/tasks/t/versions", refusal(422, "unfit_artifact", "; ".join(reasons), reasons=reasons))

        ended = softmux("push", str(peft_folder), "--task", "t")

        assert ended.code == 1
        assert all(f"- {reason}" in ended.err for reason in reasons)


class TestStart:
    def test_help_and_version_load_nothing_heavy(self) -> None:
        heavy = "'torch', 'transformers', 'fastapi', 'pydantic'"
        script = f"import sys, server.cli.commands; print([name for name in ({heavy}) if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

        assert done.stdout.strip() == "[]"

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ((), "--backbone or SOFTMUX_BACKBONE"),
            (("--backbone", "/nowhere"), "is not a folder"),
            (("--backbone", ".", "--host", "0.0.0.0"), "every caller"),
            (("--backbone", ".", "--dtype", "int3"), "float32"),
        ],
    )
    def test_serve_says_what_is_missing(self, softmux: Softmux, words: tuple[str, ...], told: str) -> None:
        ended = softmux("serve", *words)

        assert ended.code == 2
        assert told in ended.err

    def test_a_taken_port_is_told_before_anything_is_loaded(self, stub: Stub, softmux: Softmux, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")

        ended = softmux("serve", "--backbone", str(tmp_path), "--port", stub.url.rsplit(":", 1)[1])

        assert ended.code == 5
        assert "cannot listen" in ended.err
