"""An answer of `/v1/infer` as people read it: one drawing for each kind of output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from server.cli.screen import short

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text


_SHOWN_ENTRIES = 6  # of a vector


def draw_answer(answer: dict[str, Any]) -> Group:
    """Draw every output, then which version gave it and what it took."""
    from rich.console import Group

    return Group(*(_draw_output(output) for output in answer["outputs"]), draw_source(answer))


def draw_source(answer: dict[str, Any]) -> Text:
    """Draw the version that answered and what it took."""
    from rich.text import Text

    usage, timing = answer.get("usage") or {}, answer.get("timing") or {}
    parts = [f"{answer['task']}@{answer.get('alias') or 'version'} {short(answer['version'])}"]
    parts += [f"{usage[name]} {name.replace('_', ' ')}" for name in usage if usage[name]]
    parts += [f"{timing['total_ms']:.0f} ms"] if "total_ms" in timing else []
    return Text(" · ".join(parts), style="dim")


def _draw_output(output: Any) -> RenderableType:
    from rich.text import Text

    match output:
        case {"choice": int() as choice, "scores": list() as scores}:
            return _draw_choices(scores, choice, output["label"])
        case {"scores": list() as scores}:
            return _draw_scores(scores)
        case {"answer": str()}:
            return _draw_found(output.get("answers") or [output])
        case {"embedding": [*values]}:
            return _draw_vector(values)
        case {"text": str() as text}:
            return Text(text)
        case [{"start": int()}, *_] | []:
            return _draw_spans(output)
        case _:
            return Text(json.dumps(output, ensure_ascii=False))


def _draw_vector(values: list[float]) -> Text:
    from rich.text import Text

    more = ", ..." if len(values) > _SHOWN_ENTRIES else ""
    shown = ", ".join(f"{value:.4f}" for value in values[:_SHOWN_ENTRIES])
    return Text(f"[{shown}{more}] {len(values)} entries")


def _draw_scores(scores: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for number, score in enumerate(sorted(scores, key=lambda score: -score["score"])):
        bar = "█" * round(score["score"] * 20)
        table.add_row(score["label"], f"{score['score']:.3f}", bar, style="bold green" if number == 0 else None)
    return table


def _draw_choices(scores: list[float], best: int, label: str) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for number, score in enumerate(scores):
        name = label if number == best else ""
        style = "bold green" if number == best else None
        table.add_row(str(number), f"{score:.3f}", "█" * round(score * 20), name, style=style)
    return table


def _draw_found(answers: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("start", "end", "answer", "score", box=None, header_style="bold")
    for answer in answers:
        text = answer["answer"] or "(no answer)"
        table.add_row(str(answer["start"]), str(answer["end"]), text, f"{answer['score']:.3f}")
    return table


def _draw_spans(spans: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("start", "end", "entity", "word", "score", box=None, header_style="bold")
    for span in spans:
        entity = span.get("entity_group") or span.get("entity")
        table.add_row(str(span["start"]), str(span["end"]), entity, span["word"], f"{span['score']:.3f}")
    return table
