"""From an artifact to vectors and a head on the device, compiled where the backbone allows it.

Compiling: on a causal backbone the tokens in front of the first field do not depend on the request, so one forward pass
turns them into keys and values, and no request pays for them again. That pass alone needs the worker's thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prompt_store.artifact import Artifact
from server.engine.backbone.backbone import Backbone
from server.engine.carrying import carrier_to
from server.engine.crossing import send
from server.engine.heads import build_head
from server.engine.kv import KVShape, SlotPool
from server.engine.plan import PlannedRow, build_plan
from server.engine.prefixes import Prefix
from server.engine.residency import DecoderVectors, Leading, PartKey, Resident, Sized, Vectors
from server.engine.types import LoadRequest, ReadEmbedding, Reading, ReadTokens


@dataclass(slots=True)
class _Slot:
    slot: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Brought:
    """A resident that is not registered yet, with its parts."""

    resident: Resident
    parts: dict[PartKey, Sized]


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """What is on the device already; `to_compile` is None when nothing is missing."""

    parts: dict[PartKey, Sized]
    to_compile: Vectors | None


class Bringing:
    """Brings versions to one backbone's device."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._carrier = carrier_to(backbone.device)
        self.shape = shape = backbone.shape
        self._kv_shape = KVShape(shape.num_layers, shape.num_kv_heads, shape.head_dim, backbone.dtype, backbone.device)

    def size_bytes(self, request: LoadRequest) -> int:
        """Return the bytes that the version takes on the device when it shares nothing."""
        return sum(self.part_sizes(request).values())

    def part_sizes(self, request: LoadRequest) -> dict[str, int]:
        """Return the bytes that each of the version's parts takes on the device."""
        artifact, leading = request.artifact, self._compiled(request)
        num_embeds = 0 if artifact.embeds is None else len(artifact.embeds)
        num_prefix = artifact.kv[0].shape[2] if artifact.kv else 0
        num_compiled_embeds = sum(token is None for token in leading)
        sizes = {"vectors": self._vector_bytes(num_prefix + len(leading), num_embeds - num_compiled_embeds)}
        sizes["vectors"] += self._decoder_bytes(artifact)
        if self._keeps_plain(leading):
            sizes["plain"] = self._vector_bytes(num_prefix, num_embeds)
        if artifact.manifest.head is not None:
            sizes["head"] = sum(t.numel() * 4 for p in ("head", "pooler") for t in artifact.part(p).values())
        return sizes

    def part_keys(self, request: LoadRequest) -> dict[str, PartKey]:
        """Name the version's parts: by tenant, so that nobody can time another's; by digest, so never stale.

        Hashes every byte of the artifact, which takes a second for a large one: neither on the loop nor in a step.
        """
        tenant, artifact, leading = request.task.tenant, request.artifact, self._compiled(request)
        digest = artifact.prompt_digest()
        keys: dict[str, PartKey] = {"vectors": (tenant, digest, leading)}
        if self._keeps_plain(leading):
            keys["plain"] = (tenant, digest, ())
        if artifact.manifest.head is not None:
            keys["head"] = (tenant, artifact.head_digest(), artifact.manifest.head)
        return keys

    def bring(self, request: LoadRequest, keys: dict[str, PartKey], known: dict[PartKey, Sized]) -> Brought:
        """Build the parts of `keys` that `known` does not hold yet. Reads nothing but the request."""
        return self.finish(request, keys, self.place(request, keys, known))

    @torch.inference_mode()
    def place(self, request: LoadRequest, keys: dict[str, PartKey], known: dict[PartKey, Sized]) -> Placed:
        """Copy to the device what `known` does not hold yet: megabytes, but no forward pass, so on any thread."""
        with self._carrier.carrying():
            return self._placed(request, keys, known)

    def _placed(self, request: LoadRequest, keys: dict[str, PartKey], known: dict[PartKey, Sized]) -> Placed:
        parts = {key: known[key] for key in keys.values() if key in known}
        plain = parts.get(keys.get("plain", keys["vectors"]))
        if not {keys["vectors"], keys.get("plain", keys["vectors"])} <= parts.keys():
            plain = plain if isinstance(plain, Vectors) else self._plain(request)
        if "plain" in keys and plain is not None:
            parts[keys["plain"]] = plain
        if keys["vectors"] not in parts and not self._compiled(request) and plain is not None:
            parts[keys["vectors"]] = plain
        if "head" in keys and keys["head"] not in parts:
            head = build_head(request.artifact, self._backbone.prediction_head, self._carrier)
            assert head is not None
            parts[keys["head"]] = head
        to_compile = plain if keys["vectors"] not in parts and isinstance(plain, Vectors) else None
        return Placed(parts, to_compile)

    @torch.inference_mode()
    def finish(self, request: LoadRequest, keys: dict[str, PartKey], placed: Placed) -> Brought:
        """Compile what is left to be; on the worker's thread, when anything is."""
        parts = dict(placed.parts)
        if placed.to_compile is not None:
            parts[keys["vectors"]] = self._compile(placed.to_compile, self._compiled(request))
        return Brought(_resident(request, keys, parts), parts)

    def _compiled(self, request: LoadRequest) -> Leading:
        """Return the leading tokens that can be compiled: none where a later read needs their hidden states."""
        manifest, leading = request.artifact.manifest, request.leading
        if not self._backbone.shape.is_causal or manifest.text_position_offset is not None:
            return ()
        if manifest.head is not None and (manifest.head.reads_pooler or manifest.head.reads == "first"):
            return ()
        if isinstance(request.reading, ReadEmbedding) and request.reading.reads_start:
            return ()
        if isinstance(request.reading, ReadTokens) and request.reading.first is not None:
            return ()
        if _reads_text(request.reading) and any(token is not None for token in leading):
            return ()
        return leading

    def _vector_bytes(self, num_keys: int, num_embeds: int) -> int:
        embedding_bytes = self._backbone.shape.embedding_size * self._backbone.dtype.itemsize
        return num_keys * self._kv_shape.token_bytes + num_embeds * embedding_bytes

    def _decoder_bytes(self, artifact: Artifact) -> int:
        parts = (artifact.decoder_embeds, *(artifact.decoder_kv or ()), *(artifact.cross_kv or ()))
        num_entries: int = sum(part.numel() for part in parts if part is not None)
        return num_entries * self._backbone.dtype.itemsize

    @staticmethod
    def _keeps_plain(compiled: Leading) -> bool:
        """Only literals among the compiled tokens can be missing from a row; virtual tokens never are."""
        return any(token is not None for token in compiled)

    def _plain(self, request: LoadRequest) -> Vectors:
        artifact = request.artifact
        decoder = DecoderVectors(
            self._moved(artifact.decoder_embeds), self._prefix(artifact.decoder_kv), self._prefix(artifact.cross_kv)
        )
        is_decoder = self._backbone.stacks is not None
        return Vectors(self._moved(artifact.embeds), self._prefix(artifact.kv), decoder=decoder if is_decoder else None)

    def _moved(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else self._carrier.moved(tensor, self._backbone.dtype)

    def _prefix(self, kv: tuple[torch.Tensor, torch.Tensor] | None) -> Prefix | None:
        if kv is None:
            return None
        key, value = (self._carrier.moved(part, self._backbone.dtype, _tokens_first) for part in kv)
        return key, value

    def _compile(self, plain: Vectors, leading: Leading) -> Vectors:
        """Return `plain` with its leading tokens turned into keys and values behind its prefix."""
        pool = SlotPool(self._kv_shape, plain.num_prefix + len(leading), 1)
        pool.take(_Slot())
        row = PlannedRow(
            tokens=[token or 0 for token in leading],
            num_past=plain.num_prefix,
            first_position=plain.num_prefix + self._backbone.shape.position_base,
            prefix=plain.prefix,
            pool=pool,
        )
        plan = build_plan([row], is_causal=True, device=self._backbone.device)
        embeds = self._backbone.embed(plan.token_ids).clone()
        soft = send([place for place, token in enumerate(leading) if token is None], embeds.device)
        if plain.embeds is not None:
            embeds[0, soft] = plain.embeds[: len(soft)]
        self._backbone.forward(plan, embeds)
        prefix = _tokens_first(pool.key[:, 0]), _tokens_first(pool.value[:, 0])
        rest = None if plain.embeds is None or len(soft) == len(plain.embeds) else plain.embeds[len(soft) :].clone()
        return Vectors(rest, prefix, leading)


def _reads_text(reading: Reading) -> bool:
    return isinstance(reading, ReadTokens) or (isinstance(reading, ReadEmbedding) and reading.reads_text)


def _tokens_first(heads_first: torch.Tensor) -> torch.Tensor:
    """Return [layers, heads, tokens, head_dim] as [layers, tokens, heads, head_dim]: a step copies whole tokens."""
    return heads_first.transpose(1, 2).contiguous()


def _resident(request: LoadRequest, keys: dict[str, PartKey], parts: dict[PartKey, Sized]) -> Resident:
    vectors, plain = parts[keys["vectors"]], parts[keys["plain"]] if "plain" in keys else None
    head = parts[keys["head"]] if "head" in keys else None
    return Resident(
        key=(request.task, request.version),
        vectors=vectors,  # type: ignore[arg-type]  # the keys say what each part is
        plain=plain,  # type: ignore[arg-type]
        head=head,  # type: ignore[arg-type]
        reading=request.reading,
        text_position_offset=request.artifact.manifest.text_position_offset,
        part_keys=tuple(keys.values()),
        decoder_position_offset=request.artifact.manifest.decoder_position_offset,
        embeds_twice=bool(request.artifact.manifest.embeds_twice),
    )
