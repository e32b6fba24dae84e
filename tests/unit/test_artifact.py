"""An artifact has one spelling in bytes, the same in every process, and no other is read."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from artifacts import small_artifact
from hostile_files import hostile_files

from prompt_store.artifact import OWN, Artifact, version_of
from prompt_store.canonical import canonical_file, canonical_json
from prompt_store.errors import ArtifactError, MalformedFileError, ManifestError, TooLargeError
from prompt_store.manifest import Fingerprint, HeadKind, Manifest, Method, PublisherManifest
from prompt_store.safefile import read_header, read_tensors

_FRESH_PROCESS = """
import torch
from prompt_store.artifact import Artifact, version_of
from prompt_store.manifest import Manifest
words = {w: (w + "!", w) for w in {"alpha", "beta", "gamma", "delta", "é"}}
manifest = Manifest(method="prefix-tuning", kind="label-words", num_virtual_tokens=2, template="{text} <mask>",
                    label_words=words, labels=("é", "beta", "alpha", "gamma", "delta"), fingerprint={"arch": "x"})
names = {"head.a", "head.b.c", "pooler.dense", "embeds"}
tensors = {name: torch.arange(6.).view(2, 3) for name in names}
print(version_of(Artifact(manifest, tensors).to_bytes()))
"""


HOSTILE = hostile_files()
CANONICAL = canonical_json(small_artifact().manifest.to_dict())


def spoilt(manifest: bytes) -> bytes:
    """A file that is canonical but for its manifest."""
    return canonical_file(
        {"embeds": torch.ones(1, 2), "manifest": torch.from_numpy(np.frombuffer(manifest, "u1").copy())}
    )


def test_round_trip() -> None:
    artifact = small_artifact()
    read = Artifact.from_bytes(artifact.to_bytes())
    assert read.manifest == artifact.manifest
    assert read.tensors.keys() == artifact.tensors.keys()
    for name, tensor in artifact.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype
        assert torch.equal(read.tensors[name], tensor)


def test_the_same_bytes_in_every_process() -> None:
    digests = set()
    for seed in ("1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        ran = subprocess.run([sys.executable, "-c", _FRESH_PROCESS], env=environment, capture_output=True, check=True)
        digests.add(ran.stdout.strip())
    assert len(digests) == 1
    assert next(iter(digests)).startswith(b"sha256:")


def test_the_library_reads_it() -> None:
    artifact = small_artifact()
    read = safetensors.torch.load(artifact.to_bytes())
    manifest = json.loads(read.pop("manifest").numpy().tobytes())
    assert Manifest.model_validate(manifest) == artifact.manifest
    assert all(torch.equal(read[name], tensor) for name, tensor in artifact.tensors.items())


def test_the_order_of_tensors_is_not_in_the_bytes() -> None:
    artifact = small_artifact()
    turned = replace(artifact, tensors=dict(reversed(list(artifact.tensors.items()))))
    assert turned.to_bytes() == artifact.to_bytes()


def test_tensors_stand_by_name_with_one_mark() -> None:
    header = read_header(small_artifact().to_bytes(), OWN)
    names = [entry.name for entry in header.entries]
    assert names == sorted(names)
    assert header.metadata == {"softmux": "1"}


def test_views_are_written_by_value() -> None:
    artifact = small_artifact()
    strided = replace(artifact, tensors={"embeds": torch.arange(6.0).view(2, 3).T})
    assert torch.equal(Artifact.from_bytes(strided.to_bytes()).tensors["embeds"], strided.tensors["embeds"])


def test_unset_fields_are_left_out() -> None:
    manifest = read_tensors(small_artifact().to_bytes(), OWN)["manifest"].numpy().tobytes()
    assert b"null" not in manifest
    assert b"max_length" not in manifest
    assert b'"manifest_version":1' in manifest


def test_text_is_utf8_and_composed() -> None:
    composed, decomposed = (small_artifact(labels=("a", text)).to_bytes() for text in ("\u00e9", "e\u0301"))
    assert composed == decomposed
    assert "\u00e9".encode() in composed


def test_version_is_the_digest_of_the_bytes() -> None:
    assert version_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_new_head_or_template_keeps_the_prompt_digest() -> None:
    old, new = small_artifact(), small_artifact(template="<soft:3>{review}")
    head = replace(new, tensors={**new.tensors, "head.classifier.bias": torch.zeros(2)})
    assert head.prompt_digest() == old.prompt_digest()
    assert head.head_digest() != old.head_digest()
    assert version_of(head.to_bytes()) != version_of(old.to_bytes())


def test_new_vectors_keep_the_head_digest() -> None:
    old = small_artifact()
    new = replace(old, tensors={**old.tensors, "embeds": torch.zeros(3, 8)})
    assert new.head_digest() == old.head_digest()
    assert new.prompt_digest() != old.prompt_digest()


def test_an_artifact_without_tensors() -> None:
    manifest = Manifest(
        method=Method.NONE,
        kind=HeadKind.GENERATION,
        num_virtual_tokens=0,
        template="Q: {text}",
        fingerprint=Fingerprint(arch="x"),
    )
    read = Artifact.from_bytes(Artifact(manifest, {}).to_bytes())
    assert read.manifest == manifest
    assert read.tensors == {}


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"lstm_head.weight": torch.ones(1)}, "no place"),
        ({"head": torch.ones(1)}, "no place"),
        ({"head..a": torch.ones(1)}, "no place"),
        ({"head.a/../b": torch.ones(1)}, "no place"),
        ({"manifest": torch.ones(1)}, "no place"),
        ({"embeds": torch.ones(3)}, "expected 2 sizes"),
        ({"kv.key": torch.ones(1, 1, 1, 1)}, "both must be there"),
        ({"decoder_kv.key": torch.ones(1, 1, 1, 2), "decoder_kv.value": torch.ones(1, 1, 2, 1)}, "of one shape"),
        ({"embeds": torch.ones(3, 4, dtype=torch.float64)}, "float64"),
        ({"embeds": torch.ones(3, 4, dtype=torch.int8)}, "int8"),
        ({"head.mask": torch.ones(3, dtype=torch.uint8)}, "U8"),
        ({"embeds": torch.ones(0, 4)}, "none 0"),
    ],
)
def test_tensors_without_a_place_are_refused(tensors: dict[str, torch.Tensor], fault: str) -> None:
    with pytest.raises(MalformedFileError, match=fault):
        replace(small_artifact(), tensors=tensors).to_bytes()


@pytest.mark.parametrize(
    ("manifest", "fault"),
    [
        (b"{}", "method"),
        (b"[]", "root"),
        (b'{"a":1,"a":1}', "twice"),
        (CANONICAL + b"\n", "not canonical"),
        (CANONICAL.replace(b":3,", b": 3,"), "not canonical"),
        (CANONICAL.replace(b'"schlecht"', b'"\\u00e9"'), "not canonical"),
        (CANONICAL.replace(b'"schlecht"', '"e\u0301"'.encode()), "not canonical"),
        (
            CANONICAL.replace(b'"num_virtual_tokens":3,', b"").replace(b"{", b'{"num_virtual_tokens":3,', 1),
            "not canonical",
        ),
        (CANONICAL.replace(b'"schlecht"', b'"\\ud800"'), "Invalid JSON"),
        (b'{"a":' + b"[" * 9 + b"]" * 9 + b"}", "deeper than 8"),
        (b'{"a":1e400}', "1e400"),
        (b"\xff", "UTF-8"),
    ],
)
def test_a_bad_manifest_is_refused(manifest: bytes, fault: str) -> None:
    with pytest.raises(ManifestError, match=fault):
        Artifact.from_bytes(spoilt(manifest))


@pytest.mark.parametrize(
    "raw", [b'{"kind":null,"kind":null}', b'{"examples":' + b"[" * 50 + b"]" * 50 + b"}", b'{"a":NaN}']
)
def test_a_publishers_manifest_is_read_as_strictly(raw: bytes) -> None:
    with pytest.raises(ManifestError, match=r"twice|deeper|NaN"):
        PublisherManifest.from_json(raw)


def test_a_manifest_over_its_cap_is_refused() -> None:
    with pytest.raises(TooLargeError, match="1048576"):
        small_artifact(template="x" * (1 << 20)).to_bytes()
    with pytest.raises(TooLargeError, match="1048576"):
        Artifact.from_bytes(spoilt(b'"' + b"x" * (1 << 20) + b'"'))


@pytest.mark.parametrize("outputs", ["\ud800", {"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}}, None])
def test_a_manifest_that_could_not_be_read_back_is_not_written(outputs: object) -> None:
    with pytest.raises(ManifestError):
        small_artifact(examples=[{"inputs": "x", "outputs": outputs}]).to_bytes()


def test_two_keys_that_become_one_are_refused() -> None:
    with pytest.raises(ManifestError, match="NFC"):
        canonical_json({"\u00e9": 1, "e\u0301": 2})


def test_another_spelling_of_the_file_is_refused() -> None:
    library = safetensors.torch.save(safetensors.torch.load(small_artifact().to_bytes()), {"softmux": "1"})
    with pytest.raises(MalformedFileError, match="not canonical"):
        Artifact.from_bytes(library)


def test_a_checkpoint_is_no_artifact() -> None:
    with pytest.raises(MalformedFileError, match="no tensor 'manifest'"):
        Artifact.from_bytes(safetensors.torch.save({"prompt_embeddings": torch.ones(2, 3)}))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_no_artifact(name: str) -> None:
    with pytest.raises(ArtifactError):
        Artifact.from_bytes(HOSTILE[name])
