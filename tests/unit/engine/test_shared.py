from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion_eval.data import Arrays, Embedded, HuggingFace, ImageFolder, TensorSamples
from fusion_eval.data.huggingface_rows import Column, Rows
from fusion_eval.engine import prepare
from fusion_eval.engine.shared import Kept, Shared
from fusion_eval.stamps import stamp


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, inputs=np.eye(3), targets=np.array([2, 0, 1]))
    return path


def loads(source, times=2, between=lambda: None):
    """How often it is loaded when it is asked for `times` times."""
    shared, loaded = Shared(limit=8), []
    for _ in range(times):
        shared.get(source, lambda: loaded.append(1))
        between()
    return len(loaded)


def test_what_comes_from_the_same_files_is_loaded_once(file):
    assert loads(Arrays(str(file))) == 1


def test_what_names_no_file_is_loaded_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert loads(Embedded("mnist")) == 2
    assert loads(Arrays("missing.npz")) == 2


def rewrite(file):
    file.write_bytes(file.read_bytes())


def rewrite_with_its_old_time(file):
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file):
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    other.replace(file)


@pytest.mark.parametrize("change", [rewrite, rewrite_with_its_old_time, replace, Path.unlink])
def test_a_file_that_changed_is_loaded_again(file, change):
    def between():
        if file.exists():
            change(file)

    assert loads(Arrays(str(file)), between=between) == 2


@pytest.mark.parametrize("name", ["test/cat/new.png", "test/dog/deep/new.png", "test/bird/new.png"])
def test_an_image_that_was_added_anywhere_is_seen(tmp_path, name):
    for made in ("test/cat/0.png", "test/dog/deep/1.png"):
        (tmp_path / made).parent.mkdir(parents=True)
        (tmp_path / made).touch()
    (tmp_path / "elsewhere").symlink_to(tmp_path)  # a circle
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")

    def add():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    assert loads(ImageFolder(str(tmp_path))) == 1
    assert loads(ImageFolder(str(tmp_path)), between=add) == 2


def test_of_too_many_things_the_oldest_are_loaded_again(tmp_path):
    shared, loaded = Shared(limit=2), []
    for name in "abc":
        (tmp_path / name).touch()
    for name in "aabcbacc":
        shared.get(ImageFolder(str(tmp_path / name)), lambda name=name: loaded.append(name))
    assert "".join(loaded) == "abcac"


def test_files_that_a_thing_tells_count_too(tmp_path):
    @dataclass(frozen=True)
    class Told:
        path: Path

        def files(self):
            return [self.path]

    hidden = tmp_path / "hidden"
    hidden.touch()
    shared = Shared(limit=2)
    first = shared.get(Embedded("mnist"), lambda: Told(hidden))
    assert shared.get(Embedded("mnist"), lambda: Told(hidden)) is first
    hidden.write_text("changed")
    assert shared.get(Embedded("mnist"), lambda: Told(hidden)) is not first


def test_a_stamp_tells_when_something_changed_last(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert stamp([file]) == stamp([file])
    assert stamp([file]).changed_at == pytest.approx(file.stat().st_ctime)
    with pytest.raises(FileNotFoundError):
        stamp([tmp_path / "missing"])


# Fingerprints


class Counts:
    """Samples that count how often their content is read."""

    read = 0

    def __init__(self, content="content"):
        self.content = content

    def fingerprint(self):
        Counts.read += 1
        return f"{self.content:<32}"


@pytest.fixture
def fingerprint(tmp_path, monkeypatch, file):
    monkeypatch.setattr(prepare, "_digests", {})
    monkeypatch.setattr(prepare, "SETTLED", 0)
    monkeypatch.setattr(Counts, "read", 0)

    def run(samples, directory=tmp_path / "digests", source=None):
        kept = Shared(1).get(source or Arrays(str(file)), lambda: samples)
        return prepare.fingerprint_samples(kept, directory)

    return run


def test_content_is_read_once_by_all_processes(fingerprint, monkeypatch):
    first = fingerprint(Counts())
    assert fingerprint(Counts()) == first
    assert Counts.read == 1
    monkeypatch.setattr(prepare, "_digests", {})  # another process
    assert fingerprint(Counts()) == first
    assert Counts.read == 1


def test_content_is_read_again_when_a_file_or_an_argument_changes(fingerprint, file):
    fingerprint(Counts())
    file.write_bytes(b"other")
    assert fingerprint(Counts("other")).startswith("other")
    assert fingerprint(Counts("third"), source=Arrays(str(file), input_key="x")).startswith("third")
    assert Counts.read == 3


def test_a_file_that_changed_just_now_is_not_remembered_for_others(fingerprint, monkeypatch, tmp_path):
    monkeypatch.setattr(prepare, "SETTLED", 60)
    fingerprint(Counts())
    assert not (tmp_path / "digests").exists()


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"short"])
def test_a_damaged_memory_is_read_anew(fingerprint, monkeypatch, tmp_path, damage):
    first = fingerprint(Counts())
    [file] = (tmp_path / "digests").iterdir()
    file.write_bytes(damage)
    monkeypatch.setattr(prepare, "_digests", {})
    assert fingerprint(Counts()) == first
    assert file.read_text() == first


def test_samples_in_memory_are_known_until_one_number_changes():
    samples = TensorSamples(torch.arange(1000), torch.arange(1000))
    first = prepare.fingerprint_samples(Kept(samples), None)
    assert first == samples.fingerprint() == prepare.fingerprint_samples(Kept(samples), None)
    samples.inputs.data[500] += 1
    assert prepare.fingerprint_samples(Kept(samples), None) == samples.fingerprint() != first


def test_a_hugging_face_data_set_tells_its_files_and_the_images_outside_of_them(tmp_path):
    from PIL import Image

    datasets = pytest.importorskip("datasets")
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    rows = {"image": [str(tmp_path / "a.png"), str(tmp_path / "b.png")], "label": [0, 1]}
    saved = datasets.Dataset.from_dict(rows, features=features)
    assert Rows(Column(saved, "image", "in memory"), [0, 1], None, None).files() == ()
    saved.save_to_disk(tmp_path / "saved")  # with the images
    [inside] = HuggingFace(str(tmp_path / "saved")).load().files()
    assert inside.parent == tmp_path / "saved"
    writer = datasets.arrow_writer.ArrowWriter(path=str(tmp_path / "links.arrow"), features=features)
    writer.write_batch(rows)
    writer.finalize()
    linked = Rows(
        Column(datasets.Dataset.from_file(str(tmp_path / "links.arrow")), "image", "links"), [0, 1], None, None
    )
    assert linked.files() == [tmp_path / name for name in ("a.png", "b.png", "links.arrow")]
