import dataclasses
import functools
import operator
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fusion_eval.data import ImageTransform, Samples, TensorSamples
from fusion_eval.data.digest import digest_content
from fusion_eval.data.transform import TransformedSamples, identify_transform
from fusion_eval.errors import ConfigError, DataError


def noise(width, height, mode="RGB", seed=0):
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.merge("RGB", [Image.fromarray(pixels[..., i % channels]) for i in range(3)]).convert(mode)


def clip_processor(image, **options):
    return CLIPImageProcessorPil(**options)(image, return_tensors="pt")["pixel_values"][0]


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 48),
    cut=st.integers(0, 15),
    resample=st.sampled_from(["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]),
)
def test_shorter_side_then_centre_crop_equals_the_hugging_face_processor(width, height, size, cut, resample):
    image, crop = noise(width, height), max(1, size - cut)
    expected = clip_processor(
        image, size={"shortest_edge": size}, crop_size=crop, resample=Image.Resampling[resample.upper()].value
    )
    actual = ImageTransform(size=size, crop=crop, resample=resample)(image)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_the_defaults_are_those_of_clip():
    image = noise(301, 257)
    torch.testing.assert_close(ImageTransform()(image), clip_processor(image), rtol=0, atol=1e-6)


def test_exact_squeezes_into_a_square():
    image, mean, std = noise(61, 37), [0.1, 0.5, 0.9], [0.2, 0.3, 1.0]
    size = {"height": 24, "width": 24}
    expected = clip_processor(image, size=size, do_center_crop=False, image_mean=mean, image_std=std)
    actual = ImageTransform(size=24, resize="exact", mean=mean, std=std)(image)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_8_bit_mode_becomes_rgb_as_in_the_processor(mode):
    image = noise(40, 30, mode)
    expected = clip_processor(image, size={"shortest_edge": 16}, crop_size=16)
    torch.testing.assert_close(ImageTransform(size=16)(image), expected, rtol=0, atol=1e-6)


def test_arrays_and_tensors_are_images_too():
    image, transform = noise(20, 15), ImageTransform(size=8)
    for same in (np.asarray(image), torch.from_numpy(np.array(image))):
        assert torch.equal(transform(same), transform(image))
    grey = noise(20, 15, "L")
    assert torch.equal(transform(np.asarray(grey)), transform(grey))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), dtype=np.float32), "float32"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"\(3, 8, 8\)"),
        (Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)), "I;16"),
        (Image.new("F", (8, 8)), "8 bits"),
    ],
)
def test_what_would_be_clipped_or_misread_is_refused(image, message):
    with pytest.raises(DataError, match=message):
        ImageTransform(size=8)(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": "longer"}, "shorter, exact"),
        ({"resample": "cubic"}, "bicubic"),
        ({"size": 0}, "at least 1"),
        ({"size": 32, "crop": 33}, "between 1 and size=32"),
        ({"crop": 0}, "between 1"),
        ({"mean": [0.5]}, "three numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "three positive"),
        ({"mean": [0.5, float("nan"), 0.5]}, "three numbers"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ImageTransform(**arguments)


def test_lists_from_yaml_and_tuples_make_the_same_value():
    listed, tupled = ImageTransform(mean=[0, 0, 0], std=[1, 1, 1]), ImageTransform(mean=(0.0,) * 3, std=(1.0,) * 3)
    assert listed == tupled
    assert hash(listed) == hash(tupled)
    assert identify_transform(listed) == identify_transform(tupled)


def test_each_parameter_is_part_of_the_identity():
    others = {"size": 240, "resize": "exact", "crop": 200, "mean": (0, 0, 0), "std": (1, 1, 1), "resample": "box"}
    assert others.keys() == {field.name for field in dataclasses.fields(ImageTransform)}
    identities = {identify_transform(ImageTransform(**{name: value})) for name, value in others.items()}
    assert len(identities | {identify_transform(ImageTransform())}) == 7


def double(value):
    return 2 * value


def triple(value):
    return 3 * value


def scale(value, by):
    return value * by


class Opaque:
    def __call__(self, value):
        return value


def test_transforms_that_do_different_things_have_different_identities():
    transforms = [
        double,
        triple,
        functools.partial(scale, by=2),
        functools.partial(scale, by=3),
        functools.partial(double),
        torch.from_numpy,
        torch.as_tensor,
        operator.neg,
        torch.nn.Softmax(dim=0),
        torch.nn.Softmax(dim=1),
    ]
    assert len({identify_transform(transform) for transform in transforms}) == len(transforms)
    assert "2 * value" in identify_transform(double)  # so that editing a function changes the fingerprint


def test_identity_survives_pickling():
    for transform in (double, functools.partial(scale, by=2), ImageTransform(size=8), torch.nn.Softmax(dim=0)):
        assert identify_transform(pickle.loads(pickle.dumps(transform))) == identify_transform(transform)


@pytest.mark.parametrize("transform", [lambda value: value, Opaque(), functools.partial(scale, by=Opaque())])
def test_transforms_that_cannot_be_told_apart_are_refused(transform):
    with pytest.raises(DataError, match="cannot be told from another one"):
        TransformedSamples(TensorSamples(torch.ones(1), torch.zeros(1)), transform)


def test_transformed_samples():
    samples = TensorSamples(torch.arange(3.0), torch.tensor([0, 1, 0]), ("a", "b"))
    doubled = TransformedSamples(samples, double)
    assert len(doubled) == 3
    assert doubled.class_names == ("a", "b")
    assert doubled[2] == (4.0, 0)
    other_inputs = TensorSamples(torch.arange(1.0, 4.0), samples.targets, ("a", "b"))
    fingerprints = {
        samples.fingerprint(),
        doubled.fingerprint(),
        TransformedSamples(samples, triple).fingerprint(),
        TransformedSamples(other_inputs, double).fingerprint(),
    }
    assert len(fingerprints) == 4
    assert TransformedSamples(samples, double).fingerprint() == doubled.fingerprint()


@dataclasses.dataclass(frozen=True)
class Letters:
    """Text to padded numbers; a second field that only decides where it reads from."""

    where: str = "here"

    def __call__(self, text):
        return torch.tensor([ord(letter) for letter in text])

    def length(self, text):
        return len(text)

    def collate(self, items):
        rows, targets = zip(*items, strict=True)
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(targets)

    def identity(self):
        return "letters"


class Texts(Samples):
    texts = ("a", "abc", "ab")

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.reads += 1
        return self.texts[index], index

    def fingerprint(self):
        return "texts"


def test_a_transform_may_collate_and_know_lengths():
    texts = Texts()
    samples = TransformedSamples(texts, Letters())
    inputs, targets = samples.collate([samples[0], samples[1]])
    assert inputs.tolist() == [[97, 0, 0], [97, 98, 99]]
    assert targets.tolist() == [0, 1]
    assert texts.reads == 2
    assert samples.lengths().tolist() == samples.lengths().tolist() == [1, 3, 2]
    assert texts.reads == 5  # measured once
    assert pickle.loads(pickle.dumps(samples)).lengths().tolist() == [1, 3, 2]
    assert samples.untransformed is texts


def test_without_its_own_collate_and_length_those_of_the_samples_count():
    samples = TransformedSamples(TransformedSamples(Texts(), Letters()), double)
    assert samples.lengths().tolist() == [1, 3, 2]
    assert samples.collate([samples[0], samples[1]])[0].tolist() == [[194, 0, 0], [194, 196, 198]]
    assert TransformedSamples(TensorSamples(torch.ones(2), torch.zeros(2)), double).lengths() is None


def test_a_transform_may_say_itself_what_it_is():
    here, there = (TransformedSamples(Texts(), Letters(where)) for where in ("here", "there"))
    assert here.fingerprint() == there.fingerprint()
    assert identify_transform(Letters()).endswith("Letters letters")


def test_an_error_of_the_transform_names_the_sample():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"sample 1: .*\(3, 8, 8\)"):
        TransformedSamples(TensorSamples(images, torch.zeros(2)), ImageTransform(size=8))[1]


plain = st.none() | st.booleans() | st.integers(-2, 300) | st.floats(allow_nan=False) | st.text(max_size=3)
values = st.recursive(
    plain | st.binary(max_size=3),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=2), children, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(values, max_size=3), st.lists(values, max_size=3))
def test_digests_are_equal_exactly_when_the_values_are(one, other):
    # repr tells True from 1, 1 from 1.0 and "a" from b"a", as the digest does.
    assert (digest_content(one) == digest_content(other)) == (repr(one) == repr(other))
    assert digest_content(one) == digest_content(pickle.loads(pickle.dumps(one)))


def test_digests_tell_dtype_shape_and_bytes_apart():
    base = np.arange(6, dtype=np.int32)
    different = [
        base,
        base.astype(np.int64),
        base.astype(np.float32),
        base.reshape(2, 3),
        base.reshape(3, 2),
        base[::-1],
        torch.from_numpy(base),
        torch.from_numpy(base).bfloat16(),
        torch.tensor(True),
        np.bool_(True),
        np.str_("a"),
    ]
    assert len({digest_content([value]) for value in different}) == len(different)
    assert digest_content([base[::2]]) == digest_content([base[::2].copy()])
    assert digest_content([torch.arange(6).view(2, 3).T]) == digest_content([torch.arange(6).view(2, 3).T.contiguous()])
    assert digest_content([torch.ones(2, requires_grad=True)]) == digest_content([torch.ones(2)])


def test_digests_of_pil_images_see_mode_size_pixels_and_palette():
    grey = noise(6, 4, "L")
    indexed = grey.copy()
    indexed.putpalette(list(range(256)) * 3)
    inverted = grey.copy()
    inverted.putpalette(list(range(255, -1, -1)) * 3)
    images = [grey, grey.convert("RGB"), grey.resize((4, 6)), noise(6, 4, "L", seed=1), indexed, inverted]
    assert len({digest_content([image]) for image in images}) == len(images)
    assert digest_content([grey.copy()]) == digest_content([grey])


@pytest.mark.parametrize("value", [object(), np.array([object()]), {1, 2}])
def test_values_without_stable_content_are_refused(value):
    with pytest.raises(DataError, match="no fingerprint"):
        digest_content([value])


def test_fingerprints_are_equal_in_another_process():
    code = """
import functools, torch
from fusion_eval.data import ImageTransform, Samples, TensorSamples
from fusion_eval.data.transform import TransformedSamples
samples = TensorSamples(torch.arange(6.).view(2, 3), torch.tensor([0, 1]))
print(TransformedSamples(samples, functools.partial(torch.mul, other=2)).fingerprint())
print(TransformedSamples(samples, ImageTransform(size=8, mean=[0, 0, 0])).fingerprint())
"""
    samples = TensorSamples(torch.arange(6.0).view(2, 3), torch.tensor([0, 1]))
    transforms = (functools.partial(torch.mul, other=2), ImageTransform(size=8, mean=(0.0, 0.0, 0.0)))
    expected = [TransformedSamples(samples, transform).fingerprint() for transform in transforms]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.split() == expected
