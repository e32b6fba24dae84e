"""`softmux infer`: one answer of a task."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prompt_store.errors import InvalidNameError
from prompt_store.refs import TaskRef
from server.cli.answers import draw_answer, draw_source
from server.cli.client import Client
from server.cli.errors import RefusedError
from server.cli.options import DEFAULT_URL, Json, Key, Url, parse_pairs
from server.cli.screen import console, show

if TYPE_CHECKING:
    from server.cli.client import Event


def infer(
    task: Annotated[str, typer.Argument(metavar="TASK", help="TENANT/NAME, NAME@ALIAS, NAME@sha256:...")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="One text or several; - is stdin.")
    ] = None,
    field: Annotated[list[str] | None, typer.Option(metavar="NAME=TEXT", help="A field of the template.")] = None,
    choice: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="One of a multiple-choice task's choices; give several.")
    ] = None,
    param: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="e.g. max_new_tokens=64.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write the text as it is generated.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Ask a task and show its answer."""
    body = {"task_id": _checked(task), "inputs": _inputs(texts or [], field or [], choice or [])}
    parameters = parse_pairs(param or [], "--param")
    with Client(url, key) as client:
        if stream or parameters.get("stream") is True:
            _follow(client, body | {"parameters": parameters | {"stream": True}}, as_json)
        else:
            answer = client.send("POST", "/v1/infer", body | {"parameters": parameters})
            show(answer, as_json, draw_answer)


def _checked(task: str) -> str:
    try:
        TaskRef.parse(task)
    except InvalidNameError as error:
        raise typer.BadParameter(str(error), param_hint="TASK") from error
    return task


def _inputs(texts: list[str], fields: list[str], choices: list[str]) -> Any:
    if bool(texts) == bool(fields or choices):
        advice = "give a TEXT, or the template's fields with --field NAME=TEXT (and --choice TEXT for each choice)"
        raise typer.BadParameter(advice, param_hint="TEXT")
    if not texts:
        named = dict(_field(pair) for pair in fields)
        return {**named, "choices": choices} if choices else named
    read = [sys.stdin.read() if text == "-" else text for text in texts]
    return read[0] if len(read) == 1 else read


def _field(pair: str) -> tuple[str, str]:
    name, found, text = pair.partition("=")
    if not found:
        raise typer.BadParameter(f"{pair!r} is not NAME=TEXT", param_hint="--field")
    return name, text


def _follow(client: Client, body: dict[str, Any], as_json: bool) -> None:
    for event in client.events("/v1/infer", body):
        if event.name == "error":
            raise RefusedError(200, event.data.get("error", event.data))
        if as_json:
            sys.stdout.write(_line(event))
        elif event.name == "token":
            sys.stdout.write(event.data["text"])
        elif event.name == "done":
            _finish(event.data)
        sys.stdout.flush()


def _finish(answer: dict[str, Any]) -> None:
    if answer["kind"] == "generation":  # its text stands there by now
        sys.stdout.write("\n")
        console(stderr=True).print(draw_source(answer))
    else:
        console().print(draw_answer(answer))


def _line(event: Event) -> str:
    import json

    return json.dumps({"event": event.name, "data": event.data}, ensure_ascii=False) + "\n"
