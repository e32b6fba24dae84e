"""Every architecture with every family that is made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine_cases import SETTINGS, Counted, backbone_directory
from tiny_archs import ARCHS, DECODERS, SEQ2SEQ

from fidelity.case import Case, Cell
from fidelity.measuring import measure
from fidelity.peft_family import peft_cases
from fidelity.prompt_families import feeding_families, openprompt_templates
from fidelity.ptuning_families import ptuning_v1, ptuning_v2
from fidelity.refusals import refusals
from fidelity.seq2seq_families import seq2seq_families
from fidelity.verbalizers import openprompt_verbalizers
from prompt_store.backbone_spec import BackboneSpec
from server.engine.engine import Engine
from server.engine.errors import BackboneRefusedError


@dataclass
class Matrix:
    """What was found so far."""

    cells: list[Cell] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # architecture: what the refusal says


def build(
    room: Path, archs: Iterable[str] = tuple(ARCHS), wanted: Callable[[Case], bool] = lambda _: True
) -> Iterator[Matrix]:
    """Yield the matrix again after each architecture; `room` is a directory for tiny files."""
    matrix = Matrix()
    for arch in archs:
        backbone = backbone_directory(arch, room / arch)
        try:
            engine = Engine.open(str(backbone), SETTINGS, Counted())
        except BackboneRefusedError as error:
            matrix.refused[arch] = str(error).replace(str(room), "..")
        else:
            matrix.cells += measure(
                engine, arch, (case for case in cases(arch, backbone, room, engine.spec) if wanted(case))
            )
        yield matrix


def cases(arch: str, backbone: Path, room: Path, spec: BackboneSpec) -> Iterator[Case]:
    """Yield every case of an architecture that the engine takes."""
    yield from peft_cases(arch, room)
    if arch in SEQ2SEQ:
        yield from seq2seq_families(arch, backbone, room)
        yield from refusals(arch)
        return
    yield from openprompt_templates(arch, backbone)
    yield from openprompt_verbalizers(arch, backbone, spec)
    yield from ptuning_v2(arch)
    yield from ptuning_v1(arch, backbone)
    if arch in DECODERS:
        yield from feeding_families(arch, backbone)
    yield from refusals(arch)
