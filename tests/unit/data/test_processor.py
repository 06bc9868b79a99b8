import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil, CLIPProcessor, ConvNextImageProcessorPil, ViTImageProcessorPil

from fusion_eval.data import CheckpointProcessor, ImageTransform, TensorSamples
from fusion_eval.data.transform import TransformedSamples, identify_transform
from fusion_eval.errors import DataError

PROCESSORS = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=32),
    "clip_squeezed": CLIPImageProcessorPil(size={"height": 32, "width": 24}, do_center_crop=False, resample=2),
    "vit": ViTImageProcessorPil(size={"height": 30, "width": 30}),
    "vit_raw": ViTImageProcessorPil(do_resize=False, do_normalize=False),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.8),
}


def photo(width=61, height=47, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("processors")
    for name, processor in PROCESSORS.items():
        processor.save_pretrained(root / name)
    return root


@pytest.mark.parametrize("name", PROCESSORS)
def test_it_does_what_the_processor_of_the_checkpoint_does(saved, name):
    expected = PROCESSORS[name](photo(), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(CheckpointProcessor(str(saved / name))(photo()), expected)


def test_grey_and_transparent_images_become_rgb(saved):
    processor = CheckpointProcessor(str(saved / "vit"))
    for mode in ("L", "RGBA", "P"):
        expected = PROCESSORS["vit"](photo().convert(mode).convert("RGB"), return_tensors="pt")["pixel_values"][0]
        assert torch.equal(processor(photo().convert(mode)), expected)
    assert torch.equal(processor(np.asarray(photo())), processor(photo()))
    with pytest.raises(DataError, match="8 bits"):
        processor(Image.new("I;16", (8, 8)))


def test_our_own_transform_does_the_same_as_clips(saved):
    ours = ImageTransform(size=40, crop=32)(photo())
    torch.testing.assert_close(CheckpointProcessor(str(saved / "clip"))(photo()), ours, rtol=0, atol=1e-6)


def test_what_it_makes_beside_pixels_is_kept(tmp_path):
    from transformers import DetrImageProcessorPil

    processor = DetrImageProcessorPil(size={"height": 32, "width": 48})
    processor.save_pretrained(tmp_path)
    made = CheckpointProcessor(str(tmp_path))(photo())
    expected = processor(photo(), return_tensors="pt")
    assert made.keys() == {"pixel_values", "pixel_mask"}
    assert all(torch.equal(made[name], expected[name][0]) for name in made)


def identity(path):
    return identify_transform(CheckpointProcessor(str(path)))


def test_the_identity_is_what_it_does_and_not_where_it_lies(saved, tmp_path):
    assert len({identity(saved / name) for name in PROCESSORS}) == len(PROCESSORS)
    PROCESSORS["clip"].save_pretrained(tmp_path / "again")
    assert identity(tmp_path / "again") == identity(saved / "clip")
    assert str(saved) not in identity(saved / "clip")


def test_old_and_nested_files_of_the_same_processor_are_the_same(saved, tmp_path):
    (tmp_path / "old").mkdir()
    shortened = {
        "feature_extractor_type": "CLIPFeatureExtractor",  # as in openai/clip-vit-base-patch32
        "size": 40,
        "crop_size": 32,
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (tmp_path / "old" / "preprocessor_config.json").write_text(json.dumps(shortened))
    assert identity(tmp_path / "old") == identity(saved / "clip")
    nested = {"image_processor": json.loads((saved / "clip" / "preprocessor_config.json").read_text())}
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "processor_config.json").write_text(
        json.dumps({**nested, "processor_class": CLIPProcessor.__name__})
    )
    assert identity(tmp_path / "new") == identity(saved / "clip")


def test_it_is_loaded_with_the_first_image_and_once(saved, tmp_path):
    processor = CheckpointProcessor(str(tmp_path / "copy"))
    (tmp_path / "copy").mkdir()
    file = tmp_path / "copy" / "preprocessor_config.json"
    file.write_bytes((saved / "vit" / "preprocessor_config.json").read_bytes())
    first = processor(photo())
    file.unlink()
    assert torch.equal(processor(photo()), first)


def test_spawned_workers_give_the_same_samples(saved):
    images = torch.from_numpy(np.stack([np.asarray(photo(seed=seed)) for seed in range(3)]))
    processor = pickle.loads(pickle.dumps(CheckpointProcessor(str(saved / "clip"))))
    samples = TransformedSamples(TensorSamples(images, torch.arange(3)), processor)
    loader = DataLoader(samples, batch_size=3, num_workers=1, multiprocessing_context="spawn")
    inputs, _ = next(iter(loader))
    assert torch.equal(inputs, torch.stack([samples[index][0] for index in range(3)]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected the preprocessor_config.json"),
        ("", "no image processor can be loaded"),
        ("{", "no image processor can be loaded"),
        ('{"image_processor_type": "NoSuchProcessor"}', "no image processor can be loaded"),
    ],
)
def test_what_is_no_processor_is_refused(tmp_path, content, message):
    if content is not None:
        Path(tmp_path, "preprocessor_config.json").write_text(content)
    with pytest.raises(DataError, match=message):
        CheckpointProcessor(str(tmp_path))(photo())


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(DataError, match="gone: no such directory"):
        CheckpointProcessor(str(tmp_path / "gone")).identity()


def test_an_image_that_the_processor_refuses(tmp_path):
    ViTImageProcessorPil(image_mean=[0.5], image_std=[0.5]).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="ViTImageProcessorPil refuses the image: mean must have 3 elements"):
        CheckpointProcessor(str(tmp_path))(photo())


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match=r'pip install "fusion-eval\[hf\]"'):
        CheckpointProcessor("someone/something").identity()
