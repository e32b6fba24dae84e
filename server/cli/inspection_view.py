"""An inspection as people read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from server.cli.inspection import Inspection
from server.cli.screen import short, size

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

_SHOWN = 16
_SHOWN_CHARS = 160


def draw_inspection(inspection: Inspection) -> Group:
    """Draw what it is, what becomes of it, what is missing, and what the server says."""
    from rich.console import Group
    from rich.text import Text

    title = Text(f"{inspection.path}  {inspection.family or 'no family we know'}", style="bold")
    return Group(title, _table(inspection), *_verdict(inspection))


def _table(inspection: Inspection) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, lines in _rows(inspection):
        for number, line in enumerate(lines):
            style = "yellow" if name in ("note", "missing") else "red" if name == "refused" else ""
            table.add_row(name if number == 0 else "", Text(line, style=style))
    return table


def _rows(inspection: Inspection) -> Iterator[tuple[str, list[str]]]:
    yield "files", [", ".join(inspection.files)]
    tensors = [f"{name} {shape}" for name, shape in inspection.tensors.items()]
    more = [f".. and {len(tensors) - _SHOWN} more"] if len(tensors) > _SHOWN else []
    yield "tensors", tensors[:_SHOWN] + more
    yield "config", [f"{name}: {_short(value)}" for name, value in inspection.fields.items()]
    yield "task", [inspection.kind] if inspection.kind else []
    yield "becomes", [inspection.becomes] if inspection.becomes else []
    yield "reads", [inspection.reads] if inspection.reads else []
    yield "note", inspection.notes
    yield "missing", [f"{one.why}: give {one.option}" for one in inspection.missing]
    yield "refused", [inspection.refusal] if inspection.refusal else []


def _verdict(inspection: Inspection) -> Iterator[Text]:
    from rich.text import Text

    verdict = inspection.verdict
    if inspection.server is None:
        yield Text("no server was asked: with --url one says whether it takes this", style="dim")
    elif verdict is None:
        yield Text(f"{inspection.server} was not asked: see above", style="dim")
    elif "error" in verdict:
        yield Text(f"{inspection.server} would refuse it:", style="bold red")
        error = verdict["error"]
        for reason in error.get("reasons") or [error["message"]]:
            yield Text(f"  - {reason}")
        for hint in error.get("hints") or ():
            yield Text(f"  hint: {hint}")
    else:
        yield Text(f"{inspection.server} takes it: {_report(verdict)}", style="bold green")
        for check in verdict.get("checks") or ():
            yield Text(f"  {check}", style="yellow")


def _report(verdict: dict[str, Any]) -> str:
    tokens = f"{verdict['num_virtual_tokens']} virtual tokens"
    template = repr(verdict.get("template", ""))
    return (
        f"{verdict['kind']}, {verdict['method']}, {tokens}, template {template}, {size(verdict['size_bytes'])}, "
        f"version {short(verdict['version'])}"
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + ".."
