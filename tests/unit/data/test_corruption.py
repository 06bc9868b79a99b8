import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from fusion_eval import build, compose
from fusion_eval.config import compose_option
from fusion_eval.data import CheckpointProcessor, Corruption, ImageTransform, TensorSamples
from fusion_eval.data.corruption_kinds import KINDS, PARAMETERS
from fusion_eval.data.transform import TransformedSamples, identify_transform
from fusion_eval.errors import ConfigError, DataError

ORACLE = np.load(Path(__file__).parents[2] / "oracles" / "corruptions.npz")
SEVERITIES = range(1, 6)
NAMES = {kind: kind for kind in KINDS} | {"jpeg": "jpeg_compression"}


def photo(width=64, height=48, seed=0):
    rows, columns = np.mgrid[:height, :width]
    smooth = 128 + 100 * np.sin((columns + 5 * seed) / 9)[..., None] * np.cos(rows[..., None] / np.array([4, 7, 9]))
    return Image.fromarray(smooth.astype(np.uint8))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_equal_those_of_imagecorruptions(kind, severity):
    expected = ORACLE[f"{NAMES[kind]}_{severity}"].astype(int)
    random = np.random.RandomState([severity, 7])
    actual = KINDS[kind](ORACLE["image"], PARAMETERS["imagenet"][kind][severity - 1], random)
    assert actual.dtype == np.uint8
    difference = np.abs(actual - expected)
    # The blur is summed up in float32 there, and then truncated.
    assert (difference.max(), difference.mean()) <= ((1, 0.05) if kind == "motion_blur" else (0, 0))
    assert not np.array_equal(expected, ORACLE["image"])


def test_impulse_noise_hits_its_share_of_values_half_of_them_white():
    grey = np.full((300, 300, 3), 120, dtype=np.uint8)
    for parameters in PARAMETERS.values():
        for severity, share in enumerate(parameters["impulse_noise"], 1):
            noisy = KINDS["impulse_noise"](grey, share, np.random.RandomState(severity))
            for value in (0, 255):
                assert (noisy == value).mean() == pytest.approx(share / 2, abs=4 * (share / grey.size) ** 0.5)


def test_gaussian_noise_has_its_standard_deviation():
    grey = np.full((200, 200, 3), 127, dtype=np.uint8)
    noisy = KINDS["gaussian_noise"](grey, 0.04, np.random.RandomState(0)) / 255
    assert noisy.std() == pytest.approx(0.04, rel=0.02)
    assert noisy.mean() == pytest.approx(127 / 255 - 0.5 / 255, abs=0.001)  # truncated


def test_motion_blur_keeps_the_light_and_smears_along_one_line():
    dot = np.zeros((61, 61, 3), dtype=np.uint8)
    dot[30, 30] = 255
    for seed in range(10):
        blurred = KINDS["motion_blur"](dot, (10, 8), np.random.RandomState(seed))[..., 0]
        rows, columns = np.nonzero(blurred)
        angle = np.random.RandomState(seed).uniform(-45, 45)
        slope = np.tan(np.radians(angle))
        assert np.abs((rows - 30) - slope * (columns - 30)).max() <= 1
        assert columns.max() == 30  # the line starts at a pixel and goes one way
        assert 200 <= blurred.sum() <= 255  # each of its points is truncated


def test_motion_blur_goes_on_beyond_the_border_of_a_small_image():
    plain = np.full((5, 7, 3), 200, dtype=np.uint8)
    blurred = KINDS["motion_blur"](plain, (20, 15), np.random.RandomState(0))
    assert np.abs(blurred.astype(int) - 200).max() <= 1


@pytest.mark.parametrize("kind", ["gaussian_noise", "impulse_noise", "contrast", "pixelate", "jpeg"])
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_a_higher_severity_changes_more(kind, parameters):
    image = photo(96, 96)
    distances = [
        np.abs(np.asarray(Corruption(kind, severity, None, parameters)(image)).astype(int) - np.asarray(image)).mean()
        for severity in SEVERITIES
    ]
    assert distances == sorted(distances)
    assert distances[0] > 0


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    severity=st.sampled_from(list(SEVERITIES)),
    parameters=st.sampled_from(list(PARAMETERS)),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
)
def test_images_of_any_size_keep_it_and_the_pixels_decide_the_noise(kind, severity, parameters, width, height):
    corruption = Corruption(kind, severity, None, parameters)
    np.random.seed(1)
    first = np.asarray(corruption(photo(width, height)))
    np.random.seed(2)
    again = np.asarray(pickle.loads(pickle.dumps(corruption))(photo(width, height).copy()))
    assert first.shape == (height, width, 3)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("kind", KINDS)
def test_black_and_white_images_survive(kind, value):
    image = Image.new("RGB", (33, 35), (value,) * 3)
    for severity in SEVERITIES:
        assert Corruption(kind, severity)(image).size == (33, 35)


def noise(image, **options):
    corrupted = np.asarray(Corruption("gaussian_noise", 1, **options)(image)).astype(int)
    return corrupted - np.asarray(image)


def test_other_pixels_and_other_seeds_get_other_noise_and_severities_the_same():
    grey, lighter = Image.new("RGB", (32, 32), (127,) * 3), Image.new("RGB", (32, 32), (128,) * 3)
    assert not np.array_equal(noise(grey), noise(lighter))
    assert not np.array_equal(noise(grey), noise(grey, seed=1))
    weak, strong = (np.asarray(Corruption("gaussian_noise", severity)(grey)) / 255 for severity in (1, 2))
    assert np.corrcoef(weak.ravel(), strong.ravel())[0, 1] > 0.99


def test_grey_images_and_arrays_are_images_too():
    image = photo()
    expected = np.asarray(Corruption("contrast", 3)(image))
    assert np.array_equal(np.asarray(Corruption("contrast", 3)(torch.from_numpy(np.array(image)))), expected)
    assert Corruption("contrast", 3)(image.convert("L")).mode == "RGB"
    with pytest.raises(DataError, match="8 bits"):
        Corruption("contrast", 3)(Image.new("I;16", (8, 8)))


def test_the_next_transform_gets_the_corrupted_image():
    following = ImageTransform(size=16)
    expected = following(Corruption("pixelate", 4)(photo()))
    assert torch.equal(Corruption("pixelate", 4, following)(photo()), expected)


def test_corrupted_images_are_kept_as_bytes_if_the_next_transform_can():
    images = torch.from_numpy(np.stack([np.asarray(photo(seed=seed)) for seed in range(2)]))
    source = TensorSamples(images, torch.arange(2))
    whole = TransformedSamples(source, Corruption("motion_blur", 5, ImageTransform(size=16)))
    pixels, normalise = whole.split()
    stored = torch.stack([pixels[index][0] for index in range(2)])
    assert stored.dtype == torch.uint8
    assert torch.equal(normalise(stored), torch.stack([whole[index][0] for index in range(2)]))
    assert pixels.fingerprint() != whole.fingerprint()
    for transform in (None, double):
        assert TransformedSamples(source, Corruption("motion_blur", 5, transform)).split() is None


def double(image):
    return 2 * torch.from_numpy(np.array(image))


def test_each_argument_is_part_of_the_identity():
    variants = [
        Corruption("jpeg", 1),
        Corruption("contrast", 1),
        Corruption("jpeg", 2),
        Corruption("jpeg", 1, ImageTransform(size=8)),
        Corruption("jpeg", 1, ImageTransform(size=9)),
        Corruption("jpeg", 1, parameters="cifar"),
        Corruption("jpeg", 1, seed=1),
    ]
    assert len({identify_transform(variant) for variant in variants}) == len(variants)
    with pytest.raises(DataError, match="cannot be told from another one"):
        Corruption("jpeg", 1, lambda image: image).identity()


def test_spawned_workers_give_the_same_samples():
    images = torch.from_numpy(np.stack([np.asarray(photo(seed=seed)) for seed in range(3)]))
    corruption = Corruption("impulse_noise", 5, ImageTransform(size=8))
    samples = TransformedSamples(TensorSamples(images, torch.arange(3)), corruption)
    loader = DataLoader(samples, batch_size=3, num_workers=1, multiprocessing_context="spawn")
    inputs, _ = next(iter(loader))
    assert torch.equal(inputs, torch.stack([samples[index][0] for index in range(3)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("motionblur", 1), "kind='motionblur'; did you mean 'motion_blur'"),
        (("jpeg", 0), "severity=0; it should be 1, 2, 3, 4 or 5"),
        (("jpeg", 2.5), "severity=2.5"),
        (("jpeg", 1, None, "imagenet64"), "did you mean 'imagenet'"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Corruption(*arguments)


def test_spatter_without_scipy_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(DataError, match="pip install scipy"):
        Corruption("spatter", 1)(photo())


def test_a_config_of_a_corrupted_data_set():
    config = {
        **compose_option("dataset", "folder"),
        "root": "data",
        "transform": {
            "_target_": "fusion_eval.data.Corruption",
            "kind": "motion_blur",
            "severity": 5,
            "transform": {"_target_": "fusion_eval.data.ImageTransform", "size": 32},
        },
    }
    assert build(config).transform == Corruption("motion_blur", 5, ImageTransform(size=32))


@pytest.mark.parametrize(
    ("chosen", "follows"),
    [
        (["+task@taskpool.tasks.mine=clip/dtd"], CheckpointProcessor("base")),
        (["taskpool=clip_vit_b16_ta8", "+task@taskpool.tasks.mine=clip/dtd"], CheckpointProcessor("base")),
        (
            ["+task@taskpool.tasks.mine=image_classification", "taskpool.tasks.mine.data.path=x"],
            CheckpointProcessor("base"),
        ),
        (
            [
                "+task@taskpool.tasks.mine=classification",
                "dataset@taskpool.tasks.mine.data=folder",
                "taskpool.tasks.mine.data.root=x",
                "transform@taskpool.tasks.mine.data.transform.transform=clip",
            ],
            ImageTransform(),
        ),
    ],
)
def test_any_task_on_images_is_corrupted_by_one_override(chosen, follows):
    corrupted = ["transform@taskpool.tasks.mine.data.transform=corrupted", "+corruption=spatter", "+severity=5"]
    cfg = compose(["modelpool=clip_vit_b16_ta8", "modelpool.base=base", *chosen, *corrupted])
    assert build(cfg.taskpool.tasks.mine).data.transform == Corruption("spatter", 5, follows)
