"""Whatever an artifact holds survives its bytes, and whatever happens to the bytes has a name."""

import torch
from artifacts import artifacts, small_artifact
from hostile_files import GOOD
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_store.artifact import Artifact, version_of
from prompt_store.errors import ArtifactError
from prompt_store.safefile import read_tensors

ARTIFACT = small_artifact().to_bytes()


@settings(max_examples=60, deadline=None)
@given(artifacts())
def test_bytes_round_trip(artifact: Artifact) -> None:
    raw = artifact.to_bytes()
    read = Artifact.from_bytes(raw)
    assert read.to_bytes() == raw
    assert version_of(read.to_bytes()) == version_of(raw)
    assert (read.prompt_digest(), read.head_digest()) == (artifact.prompt_digest(), artifact.head_digest())
    assert read.tensors.keys() == artifact.tensors.keys()
    for name, tensor in artifact.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype
        assert torch.equal(read.tensors[name], tensor)


@st.composite
def mutations(draw: st.DrawFn, raw: bytes) -> bytes:
    """`raw` with a few bytes changed, put in, taken out or moved, mostly in the header."""
    found = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(found), 500)) | st.integers(0, len(found)))
        kind = draw(st.sampled_from(["change", "insert", "remove", "cut", "copy"]))
        if kind == "change" and at < len(found):
            found[at] = draw(st.integers(0, 255) | st.sampled_from(b'0123456789[]{}",:'))
        elif kind == "insert":
            found[at:at] = draw(st.binary(min_size=1, max_size=9) | st.sampled_from([b"9", b"[", b"{", b'"', b"\\"]))
        elif kind == "remove":
            del found[at : at + draw(st.integers(1, 9))]
        elif kind == "cut":
            del found[at:]
        else:
            found[at:at] = found[at : at + draw(st.integers(1, 99))]
    return bytes(found)


@settings(max_examples=400, deadline=None)
@given(mutations(ARTIFACT))
def test_a_mutated_artifact_is_refused_by_name_or_means_what_its_bytes_say(raw: bytes) -> None:
    try:
        read = Artifact.from_bytes(raw)
    except ArtifactError:
        return
    assert Artifact.from_bytes(read.to_bytes()).manifest == read.manifest


@settings(max_examples=400, deadline=None)
@given(mutations(GOOD) | st.binary(max_size=200))
def test_a_mutated_file_is_refused_by_name_or_read(raw: bytes) -> None:
    try:
        tensors = read_tensors(raw)
    except ArtifactError:
        return
    assert sum(tensor.nbytes for tensor in tensors.values()) < len(raw)
