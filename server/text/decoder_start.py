"""What the decoder of an encoder-decoder begins with: its start token, and what the task says behind it."""

from __future__ import annotations

from prompt_store.backbone_spec import BackboneSpec
from prompt_store.errors import UnfitError
from prompt_store.manifest import HeadKind, Manifest
from server.text.tokens import TextTokenizer

_READS_DECODER = frozenset({HeadKind.GENERATION, HeadKind.LABEL_WORDS})


def decoder_start(manifest: Manifest, spec: BackboneSpec, tokenizer: TextTokenizer) -> tuple[int, ...]:
    """Return the decoder's first tokens; none where the backbone or the task has no use for a decoder.

    A text begins, unless the task says otherwise, as the model's own generation does. Raises UnfitError for a
    `decoder_text` that is no token of the backbone's.
    """
    start = spec.decoder_start_token_id
    if start is None or manifest.kind not in _READS_DECODER:
        return ()
    if manifest.decoder_text is not None:
        ids, _ = tokenizer.encode(manifest.decoder_text)
        if not ids or max(ids) >= spec.vocab_size:
            raise UnfitError(
                f"decoder_text {manifest.decoder_text[:80]!r} gives the token ids {ids[:8]}; it needs some, and all "
                f"below {spec.vocab_size}, the size of the vocabulary of {spec.name}"
            )
        return start, *ids
    first = spec.decoder_first_token_id if manifest.kind is HeadKind.GENERATION else None
    return (start,) if first is None else (start, first)
