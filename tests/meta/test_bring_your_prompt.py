"""docs/bring-your-prompt.md says only what is so: its commands parse, and its blocks run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from engine_cases import backbone_directory
from served_process import serving

from server.cli.commands import app as command_line

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring-your-prompt.md").read_text(encoding="utf-8")
SECTIONS = {
    "Bring your PEFT prompt": ("bert", "mine/mood"),
    "Bring your P-Tuning v2 checkpoint": ("bert", "mine/mood-v2"),
    "Bring your P-Tuning v1 checkpoint": ("gpt2", "mine/mood-v1"),
}


def blocks(title: str) -> list[str]:
    """Return the bash blocks of one section."""
    section = PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[str]:
    yield from re.findall(r"^\.venv/bin/(softmux .*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands_parse(line: str) -> None:
    name, *words = shlex.split(line)[1:]
    group = typer.main.get_command(command_line)
    context = typer.Context(group, info_name="softmux")

    command = group.get_command(context, name)  # type: ignore[attr-defined]

    assert command is not None, f"there is no command {name}"
    assert command.make_context(name, words, parent=context)  # reads the words, runs nothing


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def backbone(arch: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backbone_directory(arch, tmp_path_factory.mktemp("page") / "backbone")


@pytest.fixture(scope="module")
def url(backbone: Path) -> Iterator[str]:
    with serving(backbone, backbone.parent / "store") as url:
        yield url


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_blocks_run_as_they_stand(arch: str, backbone: Path, url: str, tmp_path: Path) -> None:
    mine = {title: task for title, (wanted, task) in SECTIONS.items() if wanted == arch}
    scripts = [block for title in mine for block in blocks(title)]
    export = blocks("Take it along")[0].replace("TASK", next(iter(mine.values())))

    done = run("\n".join([*scripts, export]), backbone, url, tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("positive") >= len(mine)
    assert "mine/copy" in done.stdout


def run(script: str, backbone: Path, url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in `folder`, where .venv is the environment of these tests."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, words in {"python": "", "softmux": " -m server.cli"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (programs / name).chmod(0o755)
    said = {"BACKBONE": str(backbone), "SOFTMUX_URL": url, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=os.environ | said,
        capture_output=True,
        text=True,
        check=False,
    )
