"""The real prompts that are there: those that ship, those beside the checkout, each where its backbone is prepared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine_cases import as_label_words, peft_artifact
from safetensors.torch import load_file
from transformers import AutoTokenizer

from examples.minilm.prefix_encoder import HeadKind
from fidelity.agreement.peers import peft_classifier, peft_decoder, written_out_v1, written_out_v2
from fidelity.agreement.prompt import Layout, Prompt
from fidelity.agreement.texts import Texts
from fidelity.case import Ids
from prompt_store.artifact import Artifact
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint, convert, read_config
from prompt_store.manifest import PublisherManifest
from server.demo.backbones import BACKBONES, BackboneName
from server.demo.publish import PROMPTS
from server.engine.types import ReadColumns

MAX_LENGTH = 64  # of MiniLM's texts in training
NUM_NEW = 12  # tokens that a generating prompt writes
SOURCES = ("movie", "news", "product", "tweet")
SENTIMENTS = ("negative", "positive")


@dataclass(frozen=True)
class Places:
    """Where real things may lie, and how many rows of each prompt are asked."""

    cache: Path
    shared: Path
    num_rows: int

    @property
    def texts(self) -> Texts:
        """Where the texts lie."""
        return Texts(self.cache, self.shared)

    def backbone(self, name: BackboneName) -> Path | None:
        """Return a prepared backbone of the demo."""
        found = sorted((self.cache / "backbones").glob(f"*/{BACKBONES[name].model_name}"))
        return found[0] if found else None


def real_prompts(places: Places) -> Iterator[Prompt]:
    """Yield every prompt that has its backbone and its texts."""
    for prompt in (*_minilm(places), *_smollm2(places), *_stories(places)):
        if prompt.rows:
            yield prompt


def _minilm(places: Places) -> Iterator[Prompt]:
    backbone = places.backbone("minilm")
    if backbone is None:
        return
    asked = partial(_rows, backbone, places.num_rows, max_length=MAX_LENGTH)
    texts = {"sentiment": places.texts.vader("sentiment"), "source": places.texts.vader("source")}
    for task, answers in (("sentiment", SENTIMENTS), ("source", SOURCES)):
        shipped = PROMPTS / "minilm" / task
        yield _shipped_v2(shipped, backbone, "SequenceClassification", asked(texts[task]))
        shared = places.shared / "prompts" / f"minilm-{task}-prefix"
        if shared.is_dir():
            peer = partial(peft_classifier, backbone, shared, len(answers))
            said = ("PEFT PREFIX_TUNING, labels", "PEFT", backbone, _peft(shared), peer, asked(texts[task]))
            yield Prompt(shared.name, backbone.name, *said)
    shipped = PROMPTS / "minilm" / "entities"
    yield _shipped_v2(shipped, backbone, "TokenClassification", asked(places.texts.sentences()))


def _smollm2(places: Places) -> Iterator[Prompt]:
    backbone = places.backbone("smollm2")
    if backbone is None:
        return
    asked, words = partial(_rows, backbone, places.num_rows), partial(_words, backbone)
    sentiment, source = places.texts.vader("sentiment"), places.texts.vader("source")
    shipped = PROMPTS / "smollm2"
    yield _shipped_v1(shipped / "sentiment", backbone, asked([f"{text}\nMood" for text in sentiment]))
    said = ("PEFT", backbone, _shipped(shipped / "source"), partial(peft_decoder, backbone, shipped / "source"))
    rows, columns = asked([f"{text}\nSource:" for text in source]), words(SOURCES)
    yield Prompt(
        *("smollm2/source", backbone.name, "PEFT PREFIX_TUNING, label words", *said, rows),
        reading=ReadColumns(columns),
        columns=columns,
    )
    said = ("PEFT", backbone, _shipped(shipped / "tags"), partial(peft_decoder, backbone, shipped / "tags"))
    rows = asked([f"{text}\nTags:" for text in source])
    yield Prompt(
        *("smollm2/tags", backbone.name, "PEFT PROMPT_TUNING, tokens written", *said, rows),
        layout=_in_front(100),
        num_new=NUM_NEW,
    )
    shared = places.shared / "prompts" / "smollm2-sst-prompt"
    if shared.is_dir():
        said = ("PEFT", backbone, _peft(shared, as_label_words), partial(peft_decoder, backbone, shared))
        rows, columns = asked([f"Review: {text}\nSentiment:" for text in sentiment]), words(SENTIMENTS)
        yield Prompt(
            *(shared.name, backbone.name, "PEFT PROMPT_TUNING, label words", *said, rows),
            reading=ReadColumns(columns),
            columns=columns,
            layout=_in_front(16),
        )


def _stories(places: Places) -> Iterator[Prompt]:
    backbone = places.shared / "models" / "stories260k"
    for name in ("prompt", "ptuning", "prefix") if backbone.is_dir() else ():
        folder = places.shared / "prompts" / f"stories260k-{name}"
        method = json.loads((folder / "adapter_config.json").read_text())["peft_type"]
        rows = _rows(backbone, places.num_rows, places.texts.vader("source"))
        yield Prompt(
            *(folder.name, backbone.name, f"PEFT {method}, tokens written", "PEFT", backbone, _peft(folder)),
            *(partial(peft_decoder, backbone, folder), rows),
            layout=Layout() if name == "prefix" else _in_front(16),
            num_new=NUM_NEW,
        )


def _shipped_v2(folder: Path, backbone: Path, kind: HeadKind, rows: Sequence[Ids]) -> Prompt:
    reads = "labels" if kind == "SequenceClassification" else "tags of tokens"
    peer = partial(written_out_v2, backbone, load_file(folder / "model.safetensors"), kind)
    said = (f"P-Tuning v2, {reads}", "the module written out", backbone, _shipped(folder), peer, rows)
    return Prompt(f"minilm/{folder.name}", backbone.name, *said)


def _shipped_v1(folder: Path, backbone: Path, rows: Sequence[Ids]) -> Prompt:
    tail = AutoTokenizer.from_pretrained(backbone)(":").input_ids
    columns = _words(backbone, SENTIMENTS)
    peer = partial(written_out_v1, backbone, load_file(folder / "model.safetensors"), 10, tail)
    said = ("P-Tuning v1, label words", "the module written out", backbone, _shipped(folder), peer, rows)
    return Prompt(
        *(f"smollm2/{folder.name}", backbone.name, *said),
        reading=ReadColumns(columns),
        columns=columns,
        layout=Layout((None,) * 10, ((None,) * 10) + tuple(tail), leading=10),
    )


def _in_front(num_virtual_tokens: int) -> Layout:
    return Layout((None,) * num_virtual_tokens, leading=num_virtual_tokens)


def _shipped(folder: Path) -> Callable[[BackboneSpec], Artifact]:
    """Convert a folder with the manifest that ships beside it."""
    name = next(name for name in ("model", "adapter_model") if (folder / f"{name}.safetensors").is_file())
    config = read_config((folder / ("config.json" if name == "model" else "adapter_config.json")).read_bytes())
    checkpoint = Checkpoint(load_file(folder / f"{name}.safetensors"), config)
    publisher = PublisherManifest.from_json((folder / "manifest.json").read_bytes())
    return lambda spec: convert(checkpoint, publisher, spec).artifact


def _peft(folder: Path, then: Callable[[Artifact], Artifact] | None = None) -> Callable[[BackboneSpec], Artifact]:
    def artifact(spec: BackboneSpec) -> Artifact:
        found = peft_artifact(folder, spec, PublisherManifest())
        return then(found) if then else found

    return artifact


def _rows(backbone: Path, num_rows: int, texts: Sequence[str], max_length: int | None = None) -> Sequence[Ids]:
    """Tokenise as training did."""
    tokenizer: Any = AutoTokenizer.from_pretrained(backbone)
    return (
        [tuple(tokenizer(text).input_ids) for text in texts[:num_rows]]
        if max_length is None
        else [tuple(tokenizer(text, truncation=True, max_length=max_length).input_ids) for text in texts[:num_rows]]
    )


def _words(backbone: Path, labels: Sequence[str]) -> tuple[int, ...]:
    tokenizer: Any = AutoTokenizer.from_pretrained(backbone)
    return tuple(tokenizer(f" {label}").input_ids[0] for label in labels)
