"""Tiny real tokenizers with hand-written vocabularies: the same on every machine, nothing downloaded."""

from __future__ import annotations

import string
from itertools import count

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
_WORDS = "the a it was is movie film plot good great bad awful in new york not very and of to"
_ENDINGS = "##s ##ing ##ed ##er ##est"
_MERGES = (
    "t h|th e|Ġ the|Ġ a|Ġ i|Ġi t|Ġ w|Ġw a|Ġwa s|Ġ g|Ġg r|Ġgr e|Ġgre a|Ġgrea t|Ġg o|Ġgo o|Ġgoo d|Ġ b|Ġb a|Ġba d|i n|in g"
)
_CHARACTERS = string.ascii_letters + string.digits + " \n.,!?':-"


def bert_tokenizer(vocab_size: int = 97) -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer: `[CLS] a [SEP]`, `[CLS] a [SEP] b [SEP]` with types 0 and 1. No digits."""
    letters = list(string.ascii_lowercase)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    words += [*".,!?'", *_WORDS.split(), *_ENDINGS.split()]
    vocab = _numbered(words, vocab_size)
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def gpt2_tokenizer(vocab_size: int = 97, add_bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer. From 300 entries on it holds every byte; below, odd characters become `<unk>`."""
    tokenizer = _byte_level(vocab_size, ["<unk>", END_OF_TEXT, "<pad>"])
    if add_bos:
        end_of_text = tokenizer.token_to_id(END_OF_TEXT)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{END_OF_TEXT} $A", pair=f"{END_OF_TEXT} $A $B", special_tokens=[(END_OF_TEXT, end_of_text)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token="<unk>",
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
    )


def roberta_tokenizer(vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with RoBERTa's frame: `<s> a </s>`, and a `<mask>` that takes the space before it."""
    tokenizer = _byte_level(vocab_size, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_input_names=["input_ids", "attention_mask"],
    )


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE tokenizer as SentencePiece makes it: `▁` for spaces, one in front, and a piece for every byte."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *string.ascii_letters]
    words += [".", ",", "th", "the", "▁the", "gr", "gre", "grea", "great", "▁great"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("g", "r"), ("gr", "e"), ("gre", "a"), ("grea", "t")]
    vocab = _numbered(words, len(words))
    model = models.BPE(vocab, [*merges, ("▁", "great")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )


def xlmr_tokenizer() -> PreTrainedTokenizerFast:
    """A Unigram tokenizer with XLM-R's frame and pieces that begin with `▁`."""
    words = ["▁", "▁the", "▁great", "▁was", "▁it", "great", "s", "▁movie", "▁good", "▁bad", "ing", "."]
    pieces = [(word, -2.0) for word in words]
    pieces += [(letter, -5.0) for letter in string.ascii_letters if letter != "s"]
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram([*special, *pieces], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_input_names=["input_ids", "attention_mask"],
    )


def t5_tokenizer(vocab_size: int = 128) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer with T5's frame, `a </s>`, no special token in front, and sentinels: the last ids."""
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(4))]
    words = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in _WORDS.split()), *string.ascii_letters, *".,!?'"]
    pieces = [(word, -2.0) for word in _numbered(words, vocab_size - len(sentinels))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=sentinels,
        model_input_names=["input_ids", "attention_mask"],
    )


def _byte_level(vocab_size: int, special: list[str]) -> Tokenizer:
    every_byte = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = every_byte if vocab_size >= 300 else [_as_byte_symbol(character) for character in _CHARACTERS]
    merges = [(left, right) for left, _, right in (pair.partition(" ") for pair in _MERGES.split("|"))]
    vocab = _numbered([*special, *letters, *(left + right for left, right in merges)], vocab_size)
    kept = [(left, right) for left, right in merges if left + right in vocab]
    tokenizer = Tokenizer(models.BPE(vocab, kept, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _as_byte_symbol(character: str) -> str:
    return {" ": "Ġ", "\n": "Ċ"}.get(character, character)


def _numbered(words: list[str], size: int) -> dict[str, int]:
    """Number the words, cut or filled with unused entries to exactly `size`."""
    unused = (f"[unused{i}]" for i in count())
    distinct = list(dict.fromkeys(words))
    filled = distinct[:size] + [next(unused) for _ in range(size - len(distinct))]
    return {word: i for i, word in enumerate(filled)}
