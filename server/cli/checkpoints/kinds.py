"""The kind of task that a checkpoint names itself, as far as its config or its tensors leave no doubt."""

from __future__ import annotations

from server.cli.checkpoints.found import Found

_PEFT_TASKS = {
    "SEQ_CLS": "sequence-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "CAUSAL_LM": "generation",
    "SEQ_2_SEQ_LM": "generation",
    "FEATURE_EXTRACTION": "embedding",
}
_CLASSES = {
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForCausalLM": "generation",
    "ForConditionalGeneration": "generation",
    "LMHeadModel": "generation",
    "ForMaskedLM": "label-words",
}
_HEADS = ("classifier.", "score.", "qa_outputs.", "head.", "base_model.classifier.", "base_model.score.")


def kind_of(found: Found) -> str | None:
    """Return the kind that the file says, or None when it does not."""
    fields = found.fields
    named = _PEFT_TASKS.get(str(fields.get("task_type")))
    if named is not None:
        return named
    mapping = fields.get("auto_mapping")
    classes = [mapping.get("base_model_class")] if isinstance(mapping, dict) else fields.get("architectures")
    for name in classes if isinstance(classes, list) else []:
        for suffix, kind in _CLASSES.items():
            if str(name).endswith(suffix):
                return kind
    return "question-answering" if any(name.startswith("qa_outputs.") for name in found.sent) else None


def has_head(found: Found) -> bool:
    """Whether a trained head comes with the prompt."""
    return any(name.startswith(_HEADS) for name in found.sent)
