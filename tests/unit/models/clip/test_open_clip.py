"""Models of open_clip, which needs torchvision to be imported: where that cannot be, stubs stand in for what of it the
models do not use."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from fusion_eval import Runner, build, compose
from fusion_eval.errors import CheckpointError, ConfigError
from fusion_eval.models import OpenCLIPTextTower, ZeroShotHead, fit_state_dict, load_state_dict, open_clip_vision_model

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
ANIMALS = ("cat", "dog", "a very long name " * 40)
TEMPLATES = ("a photo of a {}.", "the {}.")


class Anything(type):
    """Makes classes that have every attribute."""

    def __getattr__(cls, name):
        return name


class Stub(ModuleType):
    """A module of torchvision in which every name is a class."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})


@pytest.fixture(scope="module")
def open_clip():
    try:
        import_module("torchvision.transforms")
    except (ImportError, RuntimeError):
        for name in ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc"):
            module = Stub(f"torchvision{name}")
            module.__spec__ = ModuleSpec(module.__name__, None)
            sys.modules[module.__name__] = module
            owner, _, own = module.__name__.rpartition(".")
            if owner:
                setattr(sys.modules[owner], own, module)
    yield pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    for name in [name for name in sys.modules if isinstance(sys.modules[name], Stub) or name.startswith("open_clip")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def model(open_clip, tmp_path_factory):
    """A small one, known to open_clip as `tiny`."""
    file = tmp_path_factory.mktemp("configs") / "tiny.json"
    file.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(file)
    torch.manual_seed(0)
    made = open_clip.create_model("tiny", pretrained=None)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return made.eval()


@pytest.fixture
def checkpoint(model, tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "tiny.safetensors")
    return str(tmp_path / "tiny.safetensors")


@torch.no_grad()
def test_the_logits_are_those_of_open_clip(open_clip, model, checkpoint):
    """As its own `build_zero_shot_classifier` and forward make them, prompts that are too long included."""
    pixels = torch.randn(5, 3, 32, 32)
    templates = [lambda name, template=template: template.replace("{}", name) for template in TEMPLATES]
    classes = open_clip.build_zero_shot_classifier(model, open_clip.get_tokenizer("tiny"), list(ANIMALS), templates)
    expected = model.logit_scale.exp() * model.encode_image(pixels, normalize=True) @ classes

    encoder = open_clip_vision_model("tiny").eval()
    encoder.load_state_dict(fit_state_dict(load_state_dict(checkpoint), encoder.state_dict(), checkpoint))
    head = ZeroShotHead(OpenCLIPTextTower("tiny", checkpoint), ANIMALS, TEMPLATES).load()
    torch.testing.assert_close(head(encoder(pixels)), expected, atol=1e-5, rtol=0)


def test_a_head_is_known_by_the_weights_outside_of_the_vision_encoder(model, checkpoint, tmp_path):
    weights = load_state_dict(checkpoint)
    digests = {OpenCLIPTextTower("tiny", checkpoint).digest()}
    for name in ("visual.proj", "text_projection"):
        save_file({**weights, name: weights[name] + 1}, tmp_path / f"{name}.safetensors")
        digests.add(OpenCLIPTextTower("tiny", str(tmp_path / f"{name}.safetensors")).digest())
    assert len(digests) == 2


def test_a_directory_holds_the_file_that_the_hub_has(model, checkpoint, tmp_path):
    (tmp_path / "tiny.safetensors").rename(tmp_path / "open_clip_model.safetensors")
    ZeroShotHead(OpenCLIPTextTower("tiny", str(tmp_path)), ANIMALS, TEMPLATES).load()


def test_a_directory_without_that_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"the directory has no open_clip_model\.safetensors"):
        OpenCLIPTextTower("ViT-B-32", str(tmp_path)).digest()


def test_an_unknown_name_is_refused(model, checkpoint):
    with pytest.raises(ConfigError, match="open_clip has no model 'tinny'; did you mean 'tiny'"):
        open_clip_vision_model("tinny")


def test_weights_of_another_model_are_refused(model, tmp_path):
    save_file({"visual.proj": torch.zeros(3), "logit_scale": torch.tensor(1.0)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="do not fit the architecture"):
        OpenCLIPTextTower("tiny", str(tmp_path / "other.safetensors")).load()


def test_the_pool_runs_by_its_config(model, checkpoint, tmp_path):
    """With the eight data sets of the hub; one of them is here."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(image) for image in rng.integers(0, 256, (6, 28, 28), dtype=np.uint8)]
    rows = {"image": images, "label": [0, 1, 2, 3, 4, 5]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    datasets.Dataset.from_dict(rows, kinds, split="test").save_to_disk(tmp_path / "mnist")
    names = ["taskpool=open_clip_ta8", "modelpool=open_clip_ta8", "modelpool.architecture.name=tiny", "model=average"]
    paths = [f"modelpool.base={checkpoint}", f"modelpool.experts={{mnist: {checkpoint}}}"]
    mnist = "taskpool.tasks.mnist.data"
    data = [f"{mnist}.path={tmp_path / 'mnist'}", f"{mnist}.expected_size=null", f"{mnist}.transform.size=32"]
    cfg = compose([*names, *paths, *data])
    pool = build(cfg.taskpool)
    assert len(pool.tasks) == 8
    report = pool.select(["mnist"]).evaluate(build(cfg.modelpool).merge(build(cfg.model)), Runner(bootstrap=0))

    samples = pool.tasks["mnist"].data.load()
    with torch.no_grad():
        features = model.encode_image(torch.stack([samples[i][0] for i in range(6)]))
    logits = pool.tasks["mnist"].head.load()(features)
    expected = functional.cross_entropy(logits, torch.arange(6), reduction="none")
    np.testing.assert_allclose(report.results["mnist"].samples["loss"], expected, atol=1e-4)


def test_without_open_clip_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(CheckpointError, match=r'pip install "fusion-eval\[open-clip\]"'):
        open_clip_vision_model("ViT-B-32")
