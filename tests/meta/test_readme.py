"""The README and docs/api.md say only what is so: make targets, commands, routes, curl lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import typer
from fastapi import FastAPI

from server.api.build import build_api
from server.cli.commands import app as command_line
from server.demo.backbones import BackboneName
from server.demo.curls import EXAMPLES, curls
from server.settings import Limits

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:8000"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))

    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) <= targets


def test_the_gates_run_on_the_oldest_transformers() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (oldest,) = re.findall(r"^OLDEST +:= ([0-9.]+)$", makefile, re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'"transformers>=([0-9.]+),<5\.([0-9]+)"', project)

    assert found is not None
    assert oldest == f"{found[1]}.0"
    newest = int(found[2]) - 1  # the range's last; constraints.txt pins it for all other tests
    assert f"\ntransformers==5.{newest}." in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"transformers {found[1]} to 5.{newest}" in README
    assert "\nmake gates\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def softmux_lines() -> Iterator[str]:
    """Yield every `softmux ...` of the README and of docs/api.md, as a shell would be given it."""
    yield from re.findall(r"^\.venv/bin/(softmux .*)$", README, re.MULTILINE)
    yield from re.findall(r"`(softmux [a-z]+[^`]*)`", README + API)


@pytest.mark.parametrize("line", sorted(set(softmux_lines())))
def test_commands_parse(line: str) -> None:
    name, *words = shlex.split(re.sub(r"\b(TASK|NAME)\b", "acme/task", line))[1:]
    group = typer.main.get_command(command_line)
    context = typer.Context(group, info_name="softmux")

    command = group.get_command(context, name)  # type: ignore[attr-defined]

    assert command is not None, f"there is no command {name}"
    assert command.make_context(name, words, parent=context)  # reads the words, runs nothing


@pytest.mark.parametrize("backbone", sorted(EXAMPLES))
def test_curl_lines_are_what_the_demo_prints(backbone: BackboneName) -> None:
    assert f"```bash\n{curls(backbone, URL)}\n```" in README


@pytest.fixture(scope="module")
def routes() -> set[tuple[str, str]]:
    @asynccontextmanager
    async def closed(app: FastAPI) -> AsyncIterator[None]:
        yield

    paths = build_api(Limits(), closed).openapi()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


@pytest.mark.parametrize("backbone", sorted(EXAMPLES))
def test_curl_lines_name_routes(backbone: BackboneName, routes: set[tuple[str, str]]) -> None:
    assert {("POST", example.path) for example in EXAMPLES[backbone]} <= routes


def test_the_api_page_lists_every_route_and_no_other(routes: set[tuple[str, str]]) -> None:
    short_form = {(method, path) for method, path in routes if not path.startswith("/v1/tenants/")}

    assert set(documented()) == short_form


def documented() -> Iterator[tuple[str, str]]:
    for method, path in re.findall(r"`(GET|POST|PUT|DELETE) (/[^`?]*|\.\.\.[^`?]*)", API):
        whole = path.replace("...", "/v1/tasks/{name}", 1) if path.startswith("...") else path
        choices = re.search(r"\{([a-z]+,[a-z,]+)\}", whole)
        for choice in choices[1].split(",") if choices else [""]:
            yield method, whole.replace(choices[0], choice) if choices else whole
