"""Both ways to answer with a P-Tuning v1 prompt, each opened in the process that is to run it.

Training-time: transformers alone, the prompt encoder run in every request. Baked: softmux, the encoder run once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from bench.prompt_encoder import PromptEncoder
from bench.subjects.step_clock import StepClock
from prompt_store.artifact import Artifact, version_of
from prompt_store.backbone_spec import BackboneSpec
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import HeadKind, PublisherManifest
from prompt_store.refs import TaskName
from server.engine.engine import Engine
from server.engine.settings import EngineSettings
from server.engine.types import RowRequest
from server.servable import Servable, ServableMaker
from server.text.tokens import TextTokenizer

Answer = Callable[[], Sequence[torch.Tensor]]
"""Do the whole of the work once, tokenisation included; return the logits of each request."""

Read = Literal["causal", "masked", "mean"]
"""Where the answer is: label words behind the last token or at the mask; without an LM head the mean of the text."""

_AUTO = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "mean": AutoModel}
_WORDS: dict[str, tuple[str | tuple[int, ...], ...]] = {"good": (" good",), "bad": (" bad",)}


@dataclass(frozen=True, slots=True)
class Work:
    """What is the same for every contender. Half of the virtual tokens stand in front of the text, half behind."""

    directory: Path
    num_virtual_tokens: int
    num_threads: int
    lines: tuple[str, ...]

    @property
    def read(self) -> Read:
        """What this backbone's files let it answer with."""
        names = " ".join(AutoConfig.from_pretrained(self.directory).architectures or ())
        if "ForCausalLM" in names or "LMHeadModel" in names:
            return "causal"
        return "masked" if "ForMaskedLM" in names or "ForPreTraining" in names else "mean"

    @property
    def counts(self) -> tuple[int, int]:
        """Virtual tokens in front of the text, and behind it."""
        return self.num_virtual_tokens // 2, self.num_virtual_tokens - self.num_virtual_tokens // 2

    @property
    def template(self) -> str:
        """The layout of a row, as softmux is told it."""
        before, after = self.counts
        text = f"<soft:{before}>{{text}}<soft:{after}>"
        return {"causal": text, "masked": f"<cls>{text}<mask><sep>", "mean": f"<cls>{text}<sep>"}[self.read]


@contextmanager
def live(work: Work) -> Iterator[Answer]:
    """Open transformers with the encoder run in every request, as the training process answers."""
    torch.set_num_threads(work.num_threads)
    model = LiveModel(work)
    yield lambda: [model.answer(line) for line in work.lines]


class LiveModel:
    """A frozen model and a prompt encoder, as a training script has them."""

    def __init__(self, work: Work) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._read = work.read
        self._before = work.counts[0]
        self._tokenizer = AutoTokenizer.from_pretrained(work.directory)
        self._model = _AUTO[self._read].from_pretrained(work.directory, dtype=torch.float32).eval()
        self._embed = self._model.get_input_embeddings()
        words = self._embed.weight.detach()
        self._encoder = encoder_of(work, words.shape[1], float(words.abs().max()))
        self._columns = _word_ids(self._tokenizer) if self._read != "mean" else []

    @torch.inference_mode()
    def answer(self, text: str) -> torch.Tensor:
        """Tokenise, run the encoder, run the model and read: the words' logits [2], or the mean [hidden]."""
        ids, places = self._row(text)
        embeds = self._embed(torch.tensor([ids]))
        embeds[0, places] = self._encoder()
        output = self._model(inputs_embeds=embeds)
        if self._read == "mean":
            soft = set(places)
            own = [place for place in range(len(ids)) if place not in soft]
            return output.last_hidden_state[0, own].mean(0)  # type: ignore[no-any-return]
        place = len(ids) - 1 if self._read == "causal" else ids.index(self._tokenizer.mask_token_id)
        return output.logits[0, place, self._columns]  # type: ignore[no-any-return]

    def _row(self, text: str) -> tuple[list[int], list[int]]:
        """Return token ids, and where the virtual tokens stand among them."""
        tokenizer, is_causal = self._tokenizer, self._read == "causal"
        words = tokenizer(text, add_special_tokens=is_causal)["input_ids"]
        start = [] if is_causal else [tokenizer.cls_token_id]
        end = [] if is_causal else [tokenizer.sep_token_id]
        if self._read == "masked":
            end = [tokenizer.mask_token_id, *end]
        num_rows = len(self._encoder.embedding.weight)
        before, after = [0] * self._before, [0] * (num_rows - self._before)
        first, second = len(start), len(start) + len(before) + len(words)
        places = [*range(first, first + len(before)), *range(second, second + len(after))]
        return [*start, *before, *words, *after, *end], places


@contextmanager
def baked(work: Work) -> Iterator[Answer]:
    """Open softmux on the same encoder's state dict, converted as a publish converts it."""
    settings = EngineSettings(dtype="float32", device="cpu", num_threads=work.num_threads)
    engine = Engine.open(str(work.directory), settings, StepClock())
    with asyncio.Runner() as runner:
        engine.start(runner.get_loop())
        try:
            task = runner.run(BakedTask.load(engine, work))
            yield lambda: runner.run(task.answer(work.lines))
        finally:
            runner.run(engine.close())


class BakedTask:
    """One task, resident; requests come one after the other."""

    def __init__(self, engine: Engine, servable: Servable) -> None:
        self._engine = engine
        self._servable = servable

    @classmethod
    async def load(cls, engine: Engine, work: Work) -> BakedTask:
        """Convert the encoder's state dict and make the task resident."""
        spec = engine.spec
        artifact = _artifact(work, encoder_of(work, spec.embedding_size, spec.max_abs_embedding), spec)
        maker = ServableMaker(spec, TextTokenizer.of(engine.tokenizer))
        servable, request = maker.make(TaskName("bench", "ptuning"), version_of(artifact.to_bytes()), artifact)
        await engine.load(request)
        return cls(engine, servable)

    async def answer(self, lines: Sequence[str]) -> list[torch.Tensor]:
        """Answer every line by itself."""
        return [await self._one(line) for line in lines]

    async def _one(self, text: str) -> torch.Tensor:
        servable = self._servable
        lease = self._engine.lease(servable.task, servable.version)
        assert lease is not None, "the task is resident"
        try:
            row = servable.to_row(servable.filler.fill_input(text))
            outcome = await self._engine.submit(RowRequest(lease, row)).outcome()
        finally:
            lease.release()
        assert outcome.logits is not None
        return outcome.logits


def encoder_of(work: Work, width: int, max_abs: float) -> PromptEncoder:
    """Return the prompt encoder for word embeddings of this width and largest entry."""
    # As large as words: SmolLM2's entries have a standard deviation of 0.14, and 2.0 as the largest.
    return PromptEncoder(work.num_virtual_tokens, width, max_abs / 16)


def _artifact(work: Work, encoder: PromptEncoder, spec: BackboneSpec) -> Artifact:
    has_words = work.read != "mean"
    publisher = PublisherManifest(
        template=work.template,
        kind=HeadKind.LABEL_WORDS if has_words else HeadKind.EMBEDDING,
        label_words=_WORDS if has_words else None,
    )
    return convert(Checkpoint(encoder.state_dict()), publisher, spec).artifact


def _word_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    encoded: Any = [tokenizer(words[0], add_special_tokens=False)["input_ids"] for words in _WORDS.values()]
    return [ids[0] for ids in encoded]
