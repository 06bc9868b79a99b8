import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_files
from torch.utils.data import DataLoader

from fusion_eval.config import build, compose_option
from fusion_eval.data import ImageFolder, ImageTransform
from fusion_eval.errors import DataError

SMALL = ImageTransform(size=8)


def paint(path, colour, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def root(tmp_path):
    """Two splits; `test` has classes 10, 2 and cat, one image in a sub-directory, one with an upper-case suffix."""
    paint(tmp_path / "data/train/cat/0.png", "red")
    paint(tmp_path / "data/test/cat/b.png", (9, 0, 0))
    paint(tmp_path / "data/test/cat/a.png", (8, 0, 0))
    paint(tmp_path / "data/test/2/day/x.JPEG", (0, 7, 0))
    paint(tmp_path / "data/test/10/y.bmp", (0, 0, 6))
    paint(tmp_path / "data/test/10/y10.png", (0, 0, 5))
    paint(tmp_path / "data/test/10/y9.webp", (0, 0, 4))
    return tmp_path / "data"


def test_samples_are_those_of_sklearn_load_files(root):
    shutil.move(root / "test/2/day/x.JPEG", root / "test/2/x.JPEG")  # load_files does not go deeper
    (root / "test/2/day").rmdir()
    expected = load_files(str(root / "test"), load_content=False, shuffle=False)
    pairs = sorted(zip(expected.target.tolist(), expected.filenames.tolist(), strict=True))
    samples = ImageFolder(str(root), transform=SMALL).load()
    assert samples.class_names == tuple(expected.target_names)
    assert len(samples) == len(pairs)
    for index, (target, path) in enumerate(pairs):
        value, actual = samples[index]
        assert actual == target
        assert torch.equal(value, SMALL(Image.open(path)))


def test_sub_directories_belong_to_their_class(root):
    samples = ImageFolder(str(root), transform=SMALL).load()
    assert samples.class_names == ("10", "2", "cat")
    assert [samples[i][1] for i in range(len(samples))] == [0, 0, 0, 1, 2, 2]


def test_the_default_transform_is_clips(root):
    value, _ = ImageFolder(str(root)).load()[0]
    assert torch.equal(value, ImageTransform()(Image.open(root / "test/10/y.bmp")))


def test_no_split_means_the_classes_lie_in_root(root):
    direct = ImageFolder(str(root / "test"), split=None, transform=SMALL).load()
    assert direct.fingerprint() == ImageFolder(str(root), transform=SMALL).load().fingerprint()


def test_stray_files_are_passed_over(root):
    before = ImageFolder(str(root), transform=SMALL).load()
    paint(root / "test/stray.png", "white")
    paint(root / "test/cat/._a.png", "white")
    paint(root / "test/.cache/a.png", "white")
    (root / "test/cat/Thumbs.db").write_bytes(b"junk")
    (root / "test/cat/notes.txt").write_text("hello")
    (root / "test/cat/directory.png").mkdir()
    after = ImageFolder(str(root), transform=SMALL).load()
    assert after.class_names == before.class_names
    assert after.fingerprint() == before.fingerprint()


def test_an_empty_class_keeps_its_number(root):
    (root / "test/ant").mkdir()
    samples = ImageFolder(str(root), transform=SMALL).load()
    assert samples.class_names == ("10", "2", "ant", "cat")
    assert [samples[i][1] for i in range(len(samples))] == [0, 0, 0, 1, 3, 3]


def test_symbolic_links_are_followed(root, tmp_path):
    link = tmp_path / "linked/test/cat"
    link.parent.mkdir(parents=True)
    link.symlink_to(root / "test/cat")
    assert len(ImageFolder(str(tmp_path / "linked"), transform=SMALL).load()) == 2


def test_the_fingerprint_is_of_content_order_targets_and_transform(root, tmp_path):
    fingerprint = ImageFolder(str(root), transform=SMALL).load().fingerprint()
    shutil.copytree(root, tmp_path / "elsewhere")
    copied = ImageFolder(str(tmp_path / "elsewhere"), transform=ImageTransform(size=8)).load()
    assert copied.fingerprint() == fingerprint
    assert ImageFolder(str(root), transform=ImageTransform(size=9)).load().fingerprint() != fingerprint

    (root / "test/cat/a.png").rename(root / "test/cat/c.png")
    reordered = ImageFolder(str(root), transform=SMALL).load().fingerprint()
    shutil.copy(root / "test/cat/b.png", root / "test/cat/c.png")
    repainted = ImageFolder(str(root), transform=SMALL).load().fingerprint()
    shutil.move(root / "test/cat/b.png", root / "test/2/last.png")  # the same images in the same order
    retargeted = ImageFolder(str(root), transform=SMALL).load().fingerprint()
    assert len({fingerprint, reordered, repainted, retargeted}) == 4


def jpeg():
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", jpeg()[:300]])
def test_a_broken_image_is_named(root, content):
    (root / "test/cat/broken.png").write_bytes(content)
    samples = ImageFolder(str(root), transform=SMALL).load()
    with pytest.raises(DataError, match=r"test/cat/broken\.png: not a readable image"):
        [samples[i] for i in range(len(samples))]


def test_an_image_that_vanishes_is_named(root):
    samples = ImageFolder(str(root), transform=SMALL).load()
    (root / "test/10/y.bmp").unlink()
    with pytest.raises(DataError, match=r"y\.bmp"):
        samples[0]


def test_a_16_bit_image_is_refused_by_name(root):
    Image.new("I;16", (8, 8), 40_000).save(root / "test/cat/deep.png")
    samples = ImageFolder(str(root), transform=SMALL).load()
    with pytest.raises(DataError, match=r"deep\.png has more \(mode I;16\)"):
        samples[len(samples) - 1]


def test_directories_that_are_wrong_are_named(root, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such directory"):
        ImageFolder(str(tmp_path / "nowhere")).load()
    with pytest.raises(DataError, match=r"no split 'tets'; did you mean 'test'\? Known: test, train"):
        ImageFolder(str(root), split="tets").load()
    with pytest.raises(DataError, match=r"no class directories"):
        ImageFolder(str(root / "test"), split="cat").load()
    (tmp_path / "void/test/a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images in 1 class directories; known suffixes: .*\.webp"):
        ImageFolder(str(tmp_path / "void")).load()


def test_without_pillow_the_extra_is_named(root):
    code = f"""
import sys
sys.modules["PIL"] = None
from fusion_eval.data import ImageFolder
ImageFolder({str(root)!r}).load()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "fusion-eval[images]"' in run.stderr


def test_construction_touches_no_disk():
    assert ImageFolder("/no/such/place").split == "test"


def test_spawned_workers_give_the_same_samples(root):
    samples = ImageFolder(str(root), transform=SMALL).load()
    assert pickle.loads(pickle.dumps(samples)).fingerprint() == samples.fingerprint()
    loader = DataLoader(samples, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    inputs, targets = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert targets.tolist() == [samples[i][1] for i in range(len(samples))]
    assert torch.equal(inputs, torch.stack([samples[i][0] for i in range(len(samples))]))


def test_the_config_describes_the_defaults():
    source = build({**compose_option("dataset", "folder"), "root": "data/eurosat"})
    assert source == ImageFolder("data/eurosat", transform=ImageTransform())
    assert not Path("data/eurosat").exists()
