"""Measure the demo's prompts on held-out rows through a running server's API, beside the backbone without them.

    python -m server.demo.evaluation --url http://127.0.0.1:8000

Which backbone is served, the server says. Exits with 1 when a prompt is below its bar.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from prompt_store.backbone_spec import BackboneSpec
from server.demo.backbones import BACKBONES, BackboneName
from server.demo.client import DemoClient, DemoError
from server.demo.exams import Exam, Measure, exams
from server.demo.fetch import FetchError
from server.demo.publish import PROMPTS, publish
from server.demo.untuned import without_prompt
from server.demo.vader import load

NUM_INPUTS = 50  # per request
EXIT_BELOW_BAR = 1
EXIT_UNREACHED = 3


@dataclass(frozen=True, slots=True)
class Score:
    """How a task did by one measure, with its soft prompt and without; shares of the rows."""

    exam: Exam
    measure: Measure
    tuned: float
    untuned: float

    @property
    def is_enough(self) -> bool:
        """Whether the bar was reached."""
        return self.tuned >= self.measure.bar


def evaluate(client: DemoClient, cache: Path, progress: Progress) -> list[Score]:
    """Ask every held-out row twice, with the task's soft prompt and without. Raises DemoError, FetchError."""
    backbone = served_backbone(client)
    return [
        score for exam in exams(backbone, load(cache, progress)) for score in _sit(client, backbone, exam, progress)
    ]


def served_backbone(client: DemoClient) -> BackboneName:
    """Return which of the demo's backbones is served. Raises DemoError."""
    found = client.backbone()
    for name, backbone in BACKBONES.items():
        if backbone.model_type == found["model_type"]:
            return name
    raise DemoError(f"the server has {found['name']}, a {found['model_type']}: start one with `make demo`")


def _sit(client: DemoClient, backbone: BackboneName, exam: Exam, progress: Progress) -> Iterator[Score]:
    untuned_task = f"{exam.task}.untuned"
    spec = BackboneSpec(**client.backbone()["spec"])
    client.push_artifact(untuned_task, without_prompt(PROMPTS / backbone / exam.task, spec).to_bytes())
    try:
        tuned = _outputs(client, exam.task, exam, progress)
        untuned = _outputs(client, untuned_task, exam, progress)
    finally:
        client.delete(untuned_task)
    for measure in exam.measures:
        yield Score(exam, measure, _share(tuned, exam, measure), _share(untuned, exam, measure))


def _outputs(client: DemoClient, task: str, exam: Exam, progress: Progress) -> list[Any]:
    bar = progress.add_task(f"ask {task}", total=len(exam.rows))
    outputs: list[Any] = []
    while len(outputs) < len(exam.rows):
        texts = [row.text for row in exam.rows[len(outputs) : len(outputs) + NUM_INPUTS]]
        outputs += client.infer(task, texts)
        progress.update(bar, completed=len(outputs))
    return outputs


def _share(outputs: list[Any], exam: Exam, measure: Measure) -> float:
    right = sum(measure.is_right(output, row.label) for output, row in zip(outputs, exam.rows, strict=True))
    return right / len(exam.rows)


def table(scores: list[Score]) -> Table:
    """Draw the scores."""
    shown = Table(title="The demo's prompts on held-out rows, through the API")
    for name in ("task", "measure"):
        shown.add_column(name)
    for name in ("rows", "without the prompt", "with it", "bar"):
        shown.add_column(name, justify="right")
    for score in scores:
        shown.add_row(
            score.exam.task,
            score.measure.name,
            str(len(score.exam.rows)),
            f"{score.untuned:.1%}",
            f"[bold {'green' if score.is_enough else 'red'}]{score.tuned:.1%}",
            f"{score.measure.bar:.0%}",
        )
    return shown


def run(
    url: Annotated[str, typer.Option(envvar="SOFTMUX_URL", help="The server that `make demo` started.")] = (
        "http://127.0.0.1:8000"
    ),
    cache: Annotated[Path, typer.Option(envvar="SOFTMUX_CACHE", help="Where the data is kept.")] = Path(
        "~/.cache/softmux"
    ),
) -> None:
    """Measure the demo's prompts on held-out rows, beside the backbone without them."""
    screen, errors = Console(), Console(stderr=True)
    try:
        with Progress(console=errors, transient=True) as progress, DemoClient(url) as client:
            publish(served_backbone(client), url)
            scores = evaluate(client, cache.expanduser(), progress)
    except (DemoError, FetchError) as error:
        errors.print(str(error), style="red", markup=False)
        raise typer.Exit(EXIT_UNREACHED) from error
    screen.print(table(scores))
    if not all(score.is_enough for score in scores):
        raise typer.Exit(EXIT_BELOW_BAR)


def main() -> None:
    """Run as a command."""
    typer.run(run)


if __name__ == "__main__":
    main()
