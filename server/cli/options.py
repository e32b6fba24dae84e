"""The options and arguments that several commands share, and how their text is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from prompt_store.errors import InvalidNameError
from prompt_store.refs import parse_name


@dataclass(frozen=True, slots=True)
class TaskPath:
    """A task as the user wrote it: a bare name is a task of the caller's own tenant."""

    tenant: str | None
    name: str

    @property
    def url(self) -> str:
        """The path of the task's routes."""
        return f"/v1/tenants/{self.tenant}/tasks/{self.name}" if self.tenant else f"/v1/tasks/{self.name}"

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}" if self.tenant else self.name


def parse_task(text: str | TaskPath) -> TaskPath:
    """Read `[tenant/]name`. Raises typer.BadParameter."""
    if isinstance(text, TaskPath):  # typer converts defaults too
        return text
    tenant, slash, name = text.rpartition("/")
    try:
        return TaskPath(parse_name(tenant, "tenant") if slash else None, parse_name(name, "task"))
    except InvalidNameError as error:
        raise typer.BadParameter(str(error)) from error


def parse_pairs(pairs: list[str], option: str) -> dict[str, Any]:
    """Read `k=v` pairs. A value that is JSON is taken as such (`0.7`, `true`, `["a"]`), any other as text."""
    read: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=option)
        read[name] = _json_or_text(value)
    return read


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def parse_url(text: str) -> str:
    """Return `text` if it is an http(s) URL with a host. Raises typer.BadParameter."""
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return text
        fault = "it needs http:// or https:// and a host"
    except ValueError as error:
        fault = str(error)
    raise typer.BadParameter(f"{text!r} is not a server's URL ({fault}), e.g. {DEFAULT_URL}")


def parse_key(text: str) -> str:
    """Return `text` if it can stand in a header. Raises typer.BadParameter."""
    if text.isascii() and text.isprintable():
        return text
    raise typer.BadParameter("a key is plain ASCII, <id>.<secret>, without line ends")


DEFAULT_URL = "http://127.0.0.1:8000"
TASK_HELP = "The task: TENANT/NAME, or NAME of your own tenant."

Task = Annotated[TaskPath, typer.Argument(metavar="TASK", parser=parse_task, help=TASK_HELP)]
Url = Annotated[
    str, typer.Option("--url", metavar="URL", envvar="SOFTMUX_URL", parser=parse_url, help="The server to talk to.")
]
Key = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", envvar="SOFTMUX_KEY", parser=parse_key, help="Your key, <id>.<secret>."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the server's JSON, for scripts.")]
