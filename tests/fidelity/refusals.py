"""Files that must be refused by name: nothing says what they would answer here, or it would not be what was trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from engine_cases import EVERY_COLUMN
from feeding_cases import CHATGLM
from prefix_cases import ChatGLMPrefix, N
from ptuning_cases import FewShotEncoder, PrefixModel, saved
from tiny_archs import SEQ2SEQ, tiny_config

from fidelity.case import Case, Ids
from prompt_store.formats import Checkpoint, convert
from prompt_store.manifest import HeadKind, PublisherManifest

WIDTH = 32
WORDS = "label words"
ROWS = torch.ones(N, WIDTH) * 0.1
DECODING = ("gpt2", "llama-gqa")
Told = tuple[str, str, Checkpoint, PublisherManifest]


def refusals(arch: str) -> Iterator[Case]:
    """Yield a case for each file that this architecture must refuse; one that is served counts as wrong."""
    if arch in DECODING:
        yield from map(_case, _on_decoders(arch))
    if arch == "bert":
        yield from map(_case, _on_encoders())
    if arch in SEQ2SEQ:
        yield from map(_case, _on_two_stacks(arch))
    if arch in (*DECODING, "bert"):
        yield from map(_case, _anywhere())


def _case(told: Told) -> Case:
    family, head, checkpoint, publisher = told
    return Case(
        family, head, lambda spec: convert(checkpoint, publisher, spec).artifact, _unknown, reading=EVERY_COLUMN
    )


def _unknown(_: Ids) -> torch.Tensor:
    return torch.tensor(float("nan"))


def _anywhere() -> Iterator[Told]:
    words = PublisherManifest(label_words={"x": ("x",)})
    yield "T5X", WORDS, Checkpoint({"encoder.prompt.prompt.prompt": ROWS}), words
    lora = {"base_model.model.h.0.attn.lora_A.weight": ROWS, "base_model.model.h.0.attn.lora_B.weight": ROWS.T}
    yield "PEFT LORA", WORDS, Checkpoint(lora, {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": N}), words
    yield "LoRA without its config", WORDS, Checkpoint(lora), words
    yield "PEFT without its config", WORDS, Checkpoint({"prompt_embeddings": ROWS}), words
    deep = {"prompt_embeddings.weight": ROWS, "intermediate_prompt_embeddings.weight": ROWS}
    yield "Petals deep prompts", WORDS, Checkpoint(deep), words
    yield "TGIS encoder.pt", WORDS, Checkpoint({"encoder": ROWS}), words
    peft = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": N, "token_dim": 2 * WIDTH}
    wide = {"prompt_embeddings": torch.ones(N, 2 * WIDTH)}
    yield "PEFT PROMPT_TUNING of another width", WORDS, Checkpoint(wide, peft), words
    broken = {"prompt_embeddings": torch.full((N, WIDTH), float("nan"))}
    yield "PEFT PROMPT_TUNING with NaN", WORDS, Checkpoint(broken, {**peft, "token_dim": WIDTH}), words
    tuned = {"freeze_plm": False, "template": {}, "verbalizer": {"classes": ["a"], "label_words": [["x"]]}}
    run = {"prompt_model.template.soft_embeds": ROWS, "prompt_model.plm.weight": ROWS}
    yield "OpenPrompt with a tuned backbone", WORDS, Checkpoint(run, tuned), words
    proto = {"template.soft_embeds": ROWS, "verbalizer.head.weight": ROWS, "verbalizer.proto": ROWS}
    yield "OpenPrompt ProtoVerbalizer", "prototypes", Checkpoint(proto, {"freeze_plm": True}), PublisherManifest()
    code = {"freeze_plm": True, "template": '{"placeholder": "text_a", "post_processing": lambda x: x} {"mask"}'}
    rows = Checkpoint({"template.soft_embeds": ROWS}, code)
    yield "OpenPrompt template with code in it", WORDS, rows, words


def _on_decoders(arch: str) -> Iterator[Told]:
    words = PublisherManifest(label_words={"x": ("x",)})
    bart = {"wte.weight": ROWS, "control_trans.0.weight": ROWS, "control_trans2.0.weight": ROWS}
    yield "Prefix-Tuning originals of BART", WORDS, Checkpoint(bart, {"preseqlen": N}), words
    infix = {"wte.weight": ROWS, "wte2.weight": ROWS, "control_trans.0.weight": ROWS}
    yield "Prefix-Tuning originals with infix", WORDS, Checkpoint(infix, {"preseqlen": N}), words
    for build in CHATGLM.values():
        yield "ChatGLM P-Tuning v2", WORDS, build(tiny_config(arch))[1], words
    model = PrefixModel("bert", HeadKind.SEQUENCE_CLASSIFICATION)
    yield "P-Tuning v2 prefix of BERT", "sequence classification", model.checkpoint(is_whole=False), PublisherManifest()


def _on_two_stacks(arch: str) -> Iterator[Told]:
    words = PublisherManifest(label_words={"x": ("x",)})
    peft = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": N, "token_dim": WIDTH, "revision": None}
    twice = {"prompt_embeddings": torch.cat([ROWS, ROWS])}
    old = {**peft, "peft_type": "P_TUNING"}
    del old["revision"]
    yield "PEFT 0.3 P_TUNING, not said whose answer", WORDS, Checkpoint(twice, old), words
    yield "PEFT CPT", WORDS, Checkpoint(twice, {**peft, "peft_type": "CPT"}), words
    alone = {**peft, "peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM"}
    yield "PEFT PROMPT_TUNING of a decoder", WORDS, Checkpoint({"prompt_embeddings": ROWS}, alone), words
    broken = {"prompt_embeddings": twice["prompt_embeddings"] * float("nan")}
    yield "PEFT PROMPT_TUNING with NaN", WORDS, Checkpoint(broken, {**peft, "peft_type": "PROMPT_TUNING"}), words
    cartridge = {f"trainable_{what}.0": torch.ones(1, 4, N, 8) for what in ("keys", "values")}
    yield "Cartridges", WORDS, Checkpoint(cartridge), words
    yield (
        "Prefix-Tuning originals of GPT-2",
        WORDS,
        Checkpoint({"wte.weight": ROWS, "control_trans.0.weight": ROWS}),
        words,
    )
    nemo = {"prompt_table.prompt_table.squad.prompt_embeddings.weight": ROWS}
    yield "NeMo of a T5", WORDS, Checkpoint(nemo), words
    yield "P-Tuning v2 prefix", WORDS, Checkpoint({"prefix_encoder.embedding.weight": torch.ones(N, 192)}), words
    if not arch.startswith("t5"):
        soft = Checkpoint({"soft_embeds": ROWS}, {"freeze_plm": True})
        yield "OpenPrompt of another model than T5", WORDS, soft, words
    if arch in ("bart", "mbart"):
        yield "T5X", WORDS, Checkpoint({"encoder.prompt.prompt.prompt": ROWS}), words


def _on_encoders() -> Iterator[Told]:
    words = PublisherManifest(label_words={"x": ("x",)}, template="<cls>{text}<soft:3><mask><sep>")
    encoder = FewShotEncoder(3, WIDTH)
    yield "P-Tuning v1 few-shot without its backbone", WORDS, Checkpoint(saved(encoder)), words
    yield "P-Tuning v1 few-shot of COPA", WORDS, Checkpoint(saved(encoder), {"task_name": "copa"}), words
    yield "TGIS decoder.pt", WORDS, Checkpoint({"decoder": ROWS}), PublisherManifest(label_words={"x": ("x",)})
    for kind in (HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.TOKEN_CLASSIFICATION, HeadKind.QUESTION_ANSWERING):
        other = PrefixModel("bert", kind).checkpoint()
        trained = {name: tensor * 1.5 for name, tensor in other.tensors.items() if "encoder.layer.1." in name}
        whole = Checkpoint({**other.tensors, **trained}, other.config)
        yield "P-Tuning v2 of a trained backbone", str(kind).replace("-", " "), whole, PublisherManifest()
    chatglm = Checkpoint(saved(ChatGLMPrefix(tiny_config("bert"), False, False), "transformer.prefix_encoder."))
    yield "ChatGLM P-Tuning v2", WORDS, chatglm, PublisherManifest(label_words={"x": ("x",)})
