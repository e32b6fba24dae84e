"""Measure the demo's prompts on held-out rows through a running server's API, beside the backbone without them.

    python -m server.demo.evaluation --url http://127.0.0.1:8000

Which backbone is served, the server says. Exits with 1 when a prompt is below its bar.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from prompt_store.backbone_spec import BackboneSpec
from server.demo import vader, wnut17
from server.demo.backbones import BACKBONES, BackboneName
from server.demo.client import DemoClient, DemoError
from server.demo.exams import Exam, entities_exam, label_exam, tags_exam
from server.demo.fetch import FetchError
from server.demo.publish import PROMPTS, publish
from server.demo.scores import Score, table
from server.demo.untuned import without_prompt

NUM_INPUTS = 50  # per request
EXIT_BELOW_BAR = 1
EXIT_UNREACHED = 3


def evaluate(client: DemoClient, cache: Path, progress: Progress) -> Iterator[Score]:
    """Ask every held-out row twice, with the task's soft prompt and without. Raises DemoError, FetchError."""
    backbone = served_backbone(client)
    for exam in _exams(backbone, cache, progress):
        yield from _sit(client, backbone, exam, progress)


def served_backbone(client: DemoClient) -> BackboneName:
    """Return which of the demo's backbones is served. Raises DemoError."""
    found = client.backbone()
    for name, backbone in BACKBONES.items():
        if backbone.model_type == found["model_type"]:
            return name
    raise DemoError(f"the server has {found['name']}, a {found['model_type']}: start one with `make demo`")


def _exams(backbone: BackboneName, cache: Path, progress: Progress) -> Iterator[Exam]:
    texts = vader.load(cache, progress)
    yield label_exam(texts, "source", 0.9)
    yield label_exam(texts, "sentiment", 0.82)
    yield tags_exam(texts) if backbone == "smollm2" else entities_exam(wnut17.load(cache, progress).held_out)


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
        yield Score(exam, measure, measure.grade(tuned, exam.answers), measure.grade(untuned, exam.answers))


def _outputs(client: DemoClient, task: str, exam: Exam, progress: Progress) -> list[Any]:
    bar = progress.add_task(f"ask {task}", total=len(exam.inputs))
    outputs: list[Any] = []
    while len(outputs) < len(exam.inputs):
        asked = exam.inputs[len(outputs) : len(outputs) + NUM_INPUTS]
        outputs += client.infer(task, list(asked), exam.parameters)
        progress.update(bar, completed=len(outputs))
    return outputs


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
    scores: list[Score] = []
    try:
        with Progress(console=errors, transient=True) as progress, DemoClient(url) as client:
            publish(served_backbone(client), url)
            for score in evaluate(client, cache.expanduser(), progress):
                scores.append(score)  # one by one: what was measured is shown, also when the next cannot be
    except (DemoError, FetchError) as error:
        errors.print(str(error), style="red", markup=False)
        raise typer.Exit(EXIT_UNREACHED) from error
    finally:
        screen.print(table(scores))
    if not all(score.is_enough for score in scores):
        raise typer.Exit(EXIT_BELOW_BAR)


def main() -> None:
    """Run as a command."""
    typer.run(run)


if __name__ == "__main__":
    main()
