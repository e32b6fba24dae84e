"""What no file says, asked by name: on a terminal as questions, elsewhere as an error that names the options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from server.cli.checkpoints.families import Told
from server.cli.checkpoints.found import Found
from server.cli.checkpoints.kinds import has_head, kind_of
from server.cli.errors import MissingAnswerError
from server.cli.publisher_manifest import parse_label_words, parse_template

_ORIGINALS = ("ptuning-v1", "ptuning-few-shot")


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that a publisher has to say: the manifest's field, the option that says it, and why it is asked."""

    field: str
    option: str
    why: str
    read: Callable[[str], Any]


def writes_text(backbone: Mapping[str, Any]) -> bool:
    """Whether a prompt without a head makes the backbone write, unless somebody says otherwise."""
    return bool(backbone["is_causal"] or backbone.get("spec", {}).get("num_decoder_layers"))


def missing(found: Found, told: Told, said: Mapping[str, Any], is_writing: Callable[[], bool]) -> list[Question]:
    """Return what neither the file nor the publisher says, and no server can know. `is_writing` asks the backbone."""
    if told.refusal or found.is_artifact:
        return []
    wanted = said.get("kind") or ("label-words" if said.get("label_words") else kind_of(found))
    asked: list[Question] = []
    num_rows = prompt_rows(found)
    if num_rows > 1 and said.get("prompt_task_id") is None:
        asked.append(_task_ids(num_rows))
    if told.family in _ORIGINALS:
        wanted = "label-words"
        if not said.get("template") and not found.fields.get("template"):
            asked.append(_template(found, told.family, is_writing))
    if wanted is None and (has_head(found) or not is_writing()):
        asked.append(_kind(found))
    if _is_old_of_two_stacks(found) and not said.get("peft_decoder"):
        asked.append(_peft_decoder())
    if wanted == "label-words" and not said.get("label_words"):
        asked.append(_label_words())
    return asked


def _is_old_of_two_stacks(found: Found) -> bool:
    """Whether PEFT 0.3 or before wrote it for an encoder-decoder: its training did not do what PEFT does now."""
    fields = found.fields
    is_prompt = fields.get("peft_type") in ("PROMPT_TUNING", "P_TUNING") and fields.get("task_type") == "SEQ_2_SEQ_LM"
    is_double = fields.get("num_transformer_submodules") in (None, 2)
    return is_prompt and is_double and not {"revision", "auto_mapping", "peft_version"} & fields.keys()


def prompt_rows(found: Found) -> int:
    """Return how many tasks a multitask prompt holds; 1 for any other checkpoint."""
    cols = found.entries.get("prefix_task_cols")
    is_multitask = found.is_peft and found.fields.get("peft_type") == "MULTITASK_PROMPT_TUNING"
    return cols.shape[0] if is_multitask and cols is not None and cols.shape else 1


def answer(questions: list[Question]) -> dict[str, Any]:
    """Ask the user, or fail with the options that would say it. Raises MissingAnswerError."""
    if not questions:
        return {}
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise MissingAnswerError([f"{question.why}: give {question.option}" for question in questions])
    import typer

    return {question.field: typer.prompt(question.why, value_proc=question.read, err=True) for question in questions}


def _task_ids(num_rows: int) -> Question:
    return Question(
        "prompt_task_id",
        "--task-ids all (a version of TASK-0, TASK-1, .. for each), or --set prompt_task_id=N for one",
        f"the prompt was trained for {num_rows} tasks and the file does not say which is wanted, 0 to {num_rows - 1}",
        _whole_number,
    )


def _whole_number(text: str) -> int:
    import typer

    if not text.strip().isdecimal():
        raise typer.BadParameter(f"{text!r} is not a whole number")
    return int(text)


def _template(found: Found, family: str | None, is_writing: Callable[[], bool]) -> Question:
    why = "nobody says where the text and the virtual tokens stand"
    if family == "ptuning-few-shot":
        example = "<cls>{premise} Question: {hypothesis}?<soft:1> Answer: <mask>.<sep>"
        return Question("template", f"--template, e.g. '{example}'", why, parse_template)
    rows = next((entry.shape[0] for name, entry in found.entries.items() if name.endswith("embedding.weight")), 2)
    first, last = rows - rows // 2, rows // 2
    slots = f"<soft:{first}>{{text}}<soft:{last}>" if last else f"<soft:{first}>{{text}}"
    example = slots if is_writing() else f"<cls><soft:{first}><mask><soft:{last}> {{text}}.<sep>"
    return Question("template", f"--template, e.g. '{example}'", f"{why}, {rows} of them", parse_template)


def _kind(found: Found) -> Question:
    from prompt_store.manifest import HeadKind

    heads = [f"{name} {entry}" for name, entry in found.entries.items() if name.endswith("weight") and _is_head(name)]
    seen = f"; its head is {', '.join(heads[:3])}" if heads else ""
    option = f"--kind ({', '.join(HeadKind)})"
    return Question("kind", option, f"the file does not say what the task answers{seen}", str)


def _is_head(name: str) -> bool:
    return any(piece in name for piece in ("classifier", "score", "qa_outputs", "head."))


def _peft_decoder() -> Question:
    return Question(
        "peft_decoder",
        "--set peft_decoder=training (as it was trained) or --set peft_decoder=generate (as PEFT answers now)",
        "PEFT 0.3 or before wrote this file and also put rows in front of what the decoder writes; later ones do not",
        str,
    )


def _label_words() -> Question:
    return Question(
        "label_words",
        '--label-words, e.g. \'{"good": " great", "bad": [" bad", " awful"]}\'',
        "the answer is read from words, and no file says which label has which words",
        parse_label_words,
    )


def hints(reasons: list[str]) -> list[str]:
    """Return the options that say what a server's refusal asks to be said in the manifest."""
    text = " ".join(reasons)
    if "manifest" not in text:
        return []
    told = [field for field in _OPTIONS if f"{field} in the manifest" in text]
    return [f"{field} is said with {_OPTIONS[field]}" for field in told]


_OPTIONS = {
    "kind": "--kind",
    "template": "--template",
    "labels": "--labels",
    "label_words": "--label-words",
    "pool": "--set pool=..",
    "backbone_trained": "--set backbone_trained=true",
    "peft_decoder": "--set peft_decoder=training or --set peft_decoder=generate",
}
