"""What `inspect` finds out about a checkpoint: by itself from names and shapes, and from a server if there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from server.cli.checkpoints.families import Told, tell
from server.cli.checkpoints.few_shot import backbone_beside
from server.cli.checkpoints.kinds import has_head, kind_of
from server.cli.complete import complete
from server.cli.errors import LocalFileError, RefusedError
from server.cli.options import TaskPath
from server.cli.own_backbone import compare_backbone
from server.cli.publishing import Destination, publish
from server.cli.questions import Question, missing, writes_text

if TYPE_CHECKING:
    from server.cli.checkpoints.found import Found
    from server.cli.client import Client

_READS = {
    "sequence-classification": "its head gives one score a label: through the pooler or at the first position on an "
    "encoder, at the last token on a language model",
    "token-classification": "its head gives scores for every token of the text",
    "question-answering": "its head gives start and end scores for every token of the context",
    "multiple-choice": "its head gives one score a choice, from each choice's row through the pooler",
    "label-words": "the LM head's scores of the label words, at <mask> or behind the last token",
    "generation": "the LM head's next token, again and again",
    "embedding": "hidden states, pooled",
}
_UNLABELLED = ("question-answering", "multiple-choice")  # they answer with texts of the request
_PLANNED = TaskPath(None, "inspected")  # a dry run stores nothing, so no task gets this name


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that has to be said with `option`."""

    why: str
    option: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint explained. `refusal` is why no server takes it; `verdict` what the server at `server` says."""

    path: str
    family: str | None
    kind: str | None
    becomes: str | None
    reads: str | None
    files: list[str]
    tensors: dict[str, str]
    left_out: int
    fields: dict[str, Any]
    notes: list[str]
    missing: list[Missing]
    refusal: str | None = None
    server: str | None = None
    verdict: dict[str, Any] | None = None

    @property
    def is_refused(self) -> bool:
        """Whether publishing it as it is would fail for good."""
        return self.refusal is not None or "error" in (self.verdict or {})

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as `--json` shows them."""
        return asdict(self)


def explain(found: Found, client: Client | None, url: str | None) -> Inspection:
    """Explain what was found. Raises like `Client.get`, but for a refusal, which is the verdict."""
    told = tell(found)
    asked = missing(found, told, {}, _writing(client))
    kind = "label-words" if any(question.field == "label_words" for question in asked) else kind_of(found)
    verdict = _verdict(found, told, asked, client)
    located = found.located
    return Inspection(
        path=str(located.path),
        family=told.family,
        kind=kind or (verdict or {}).get("kind"),
        becomes=told.fate,
        reads=_READS.get(str(kind or (verdict or {}).get("kind"))),
        files=[file.name for file in (*located.weights, *([located.config] if located.config else []))],
        tensors={name: str(entry) for name, entry in found.entries.items()},
        left_out=len(found.stays),
        fields={name: value for name, value in found.fields.items() if name in _TOLD_FIELDS and value is not None},
        notes=[*found.notes, *_remarks(found, told, kind)],
        missing=[Missing(question.why, question.option) for question in asked],
        refusal=told.refusal,
        server=url if client is not None else None,
        verdict=verdict,
    )


_TOLD_FIELDS = (
    *("peft_type", "task_type", "num_virtual_tokens", "num_tasks", "base_model_name_or_path", "template", "model_name"),
    *("pre_seq_len", "prefix_projection", "num_labels", "id2label", "architectures", "task_name", "pattern_id"),
)


def _writing(client: Client | None) -> Callable[[], bool]:
    # Without a server a prompt without a head may well be for a language model: nothing is asked for then.
    return lambda: client is None or writes_text(client.get("/v1/backbone"))


def _verdict(found: Found, told: Told, asked: list[Question], client: Client | None) -> dict[str, Any] | None:
    if client is None or asked or told.refusal:
        return None
    try:
        said = complete(found, {}, client, rows=None, is_asked=False)
        compare_backbone(client, found, said)
        report: dict[str, Any] = publish(client, found, said, Destination(_PLANNED, is_dry_run=True), is_quiet=True)
    except (RefusedError, LocalFileError) as error:
        return {"error": error.as_dict()}
    return report


def _remarks(found: Found, told: Told, kind: str | None) -> list[str]:
    remarks = []
    if (found.located.weights[0].parent / "manifest.json").is_file():
        remarks.append(
            f"a manifest.json lies beside it: --manifest {found.located.weights[0].parent / 'manifest.json'}"
        )
    if told.family == "ptuning-few-shot" and backbone_beside(found.located.weights[0].parent) is None:
        remarks.append("the backbone that was trained with it is not in the folder: no server can take it without")
    is_labelled = has_head(found) and kind not in _UNLABELLED and not found.is_artifact
    if is_labelled and not _names_labels(found.fields.get("id2label")):
        remarks.append("no names of labels: --labels a,b,.. in the head's order, else they are LABEL_0, LABEL_1, ..")
    return remarks


def _names_labels(said: Any) -> bool:
    """Whether a config's `id2label` says more than transformers' placeholders."""
    return isinstance(said, dict) and any(not str(label).startswith("LABEL_") for label in said.values())
