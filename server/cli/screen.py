"""What a command shows: tables for people, JSON for scripts. Answers go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

JSON_FLAG = "--json"
PIPE_WIDTH = 200  # a pipe has no width; this one cuts no digest


def show(answer: Any, as_json: bool, render: Callable[[Any], RenderableType]) -> None:
    """Write `answer` to stdout, as JSON or as `render` draws it."""
    if as_json:
        sys.stdout.write(json.dumps(answer, ensure_ascii=False, indent=2) + "\n")
    else:
        console().print(render(answer))


def console(stderr: bool = False) -> Console:
    """Return a console for stdout or stderr."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH, highlight=False)


def complain(error: dict[str, Any]) -> None:
    """Write an error to stderr: its JSON for scripts, its message and what else it says for people."""
    if JSON_FLAG in sys.argv:  # the commands' own options are out of sight when an error has left them
        sys.stderr.write(json.dumps({"error": error}, ensure_ascii=False) + "\n")
        return
    reasons = error.get("reasons") or ()
    several = "what is missing:" if error["type"] == "missing_answer" else "refused, for these reasons:"
    lines = [f"error: {several}" if len(reasons) > 1 else f"error: {error['message']}"]
    lines += [f"  - {reason}" for reason in reasons if len(reasons) > 1]
    lines += [f"  hint: {hint}" for hint in error.get("hints") or ()]
    lines += [f"  request_id: {error['request_id']}"] if error.get("request_id") else []
    console(stderr=True).print("\n".join(lines), markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Write a remark to stderr, for people only."""
    if JSON_FLAG not in sys.argv:
        console(stderr=True).print(f"note: {text}", markup=False, soft_wrap=True, style="dim")


def short(version: str | None) -> str:
    """Return a version as people read it: enough of the digest to name it again."""
    return version.removeprefix("sha256:")[:12] if version else "-"


def when(moment: str) -> str:
    """Return a moment as the clock on this machine's wall shows it."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(num_bytes: int | None) -> str:
    """Return a size as people read it."""
    if num_bytes is None:
        return "-"
    return f"{num_bytes / 1024:,.1f} KiB" if num_bytes < 1 << 20 else f"{num_bytes / (1 << 20):,.1f} MiB"
