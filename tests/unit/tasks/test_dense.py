"""Dense tasks against NumPy loops written from the definitions, and against what FusionBench reports."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate
from torchmetrics.classification import MulticlassAccuracy

from fusion_eval import Runner, TaskPool, build
from fusion_eval.config import compose_option
from fusion_eval.data import DataSource, TensorSamples
from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.models.nyuv2 import ASPPDecoder, DilatedResNet
from fusion_eval.tasks import AngleWithin, DepthEstimation, MedianAngle, Segmentation, SurfaceNormals

GOLDEN = Path(__file__).parents[2] / "oracles" / "nyuv2.npz"


def filled(module):
    """As in make_nyuv2_oracles.py."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            draw = np.random.default_rng(zlib.crc32(name.encode()))
            if name.endswith("running_var"):
                values = draw.uniform(0.5, 1.5, tensor.shape)
            else:
                values = np.resize(draw.normal(size=4093), tensor.shape) / max(1, np.prod(tensor.shape[1:])) ** 0.5
            tensor.copy_(torch.from_numpy(np.asarray(values)))
    return module.eval()


def scenes(n=3, height=64, width=96):
    """As in make_nyuv2_oracles.py."""
    draw = np.random.default_rng(7)
    label = draw.integers(-1, 13, (n, height, width))
    depth = draw.uniform(0.5, 9, (n, height, width)) * (draw.random((n, height, width)) < 0.8)
    depth[1] *= draw.random((height, width)) < 0.3
    normal = draw.normal(size=(n, height, width, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    normal *= draw.random((n, height, width, 1)) < 0.7
    image = draw.random((n, height, width, 3)) * 2 - 1
    arrays = {"image": image, "label": label, "depth": depth, "normal": normal}
    return {key: torch.from_numpy(value.astype(np.float32)) for key, value in arrays.items()}


@dataclass(frozen=True)
class Held(DataSource):
    """Samples that are there already."""

    samples: TensorSamples

    def load(self):
        return self.samples


def metrics(option):
    return build({"_target_": "builtins.dict", **compose_option("metrics", option)})


KINDS = {
    "segmentation": (partial(Segmentation, num_classes=13), "segmentation", 13),
    "depth": (DepthEstimation, "depth", 1),
    "normal": (SurfaceNormals, "normals", 3),
}


def task(kind, samples, **fields):
    cls, option, _ = KINDS[kind]
    return cls(Held(samples), metrics(option), **fields)


def run(kind, samples, model, fields=None, **settings):
    pool = TaskPool({"task": task(kind, samples, **(fields or {}))})
    report = pool.evaluate(model, Runner(progress=False, **{"bootstrap": 0, **settings}))
    return report["task"], report.results["task"]


def target_of(kind, data):
    return {"segmentation": data["label"].long(), "depth": data["depth"], "normal": data["normal"].movedim(-1, 1)}[kind]


def samples(kind):
    data = scenes(n=5, height=18, width=24)
    data["label"][4], data["depth"][4], data["normal"][4] = -1, 0, 0  # an image without a valid pixel
    return TensorSamples(data["image"].movedim(-1, 1), target_of(kind, data))


def convolution(channels):
    torch.manual_seed(2)
    return nn.Conv2d(3, channels, 3, stride=2, padding=1)


def maps(kind, data, model):
    """What the model says of each pixel, `(n, height, width, channels)` in float64, and the targets likewise."""
    with torch.no_grad():
        found = interpolate(model(data.inputs), data.inputs.shape[-2:], mode="bilinear", align_corners=True)
    targets = data.targets.movedim(1, -1) if kind == "normal" else data.targets
    return found.movedim(1, -1).double().numpy(), targets.double().numpy()


def segmentation_by_definition(found, targets):
    ious, right = [], []
    predicted = found.argmax(axis=-1)
    for label in range(13):
        inside, outside = targets == label, (targets >= 0) & (targets != label)
        hits = (predicted == label) & inside
        union = inside | ((predicted == label) & outside)
        if union.any():
            ious.append(hits.sum() / union.sum())
        right.append(hits.sum())
    return {"mean_iou": np.mean(ious), "pixel_accuracy": sum(right) / (targets >= 0).sum()}


def depth_by_definition(found, targets):
    valid = targets > 0
    error = np.abs(found[..., 0] - targets)[valid]
    return {"abs_err": error.mean(), "rel_err": (error / targets[valid]).mean()}


def angles_by_definition(found, targets):
    valid = np.linalg.norm(targets, axis=-1) > 0
    found, targets = found[valid], targets[valid]
    cosine = (found * targets).sum(axis=-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(targets, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def normals_by_definition(found, targets):
    angles = angles_by_definition(found, targets)
    shares = {
        f"within_{name}": (angles < limit).mean() for name, limit in (("11_25", 11.25), ("22_5", 22.5), ("30", 30))
    }
    return {"mean_angle": angles.mean(), "median_angle": np.median(angles), **shares}


DEFINITIONS = {
    "segmentation": segmentation_by_definition,
    "depth": depth_by_definition,
    "normal": normals_by_definition,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_is_what_the_definitions_say_whatever_the_batch_size(kind):
    data, model = samples(kind), convolution(KINDS[kind][2])
    expected = DEFINITIONS[kind](*maps(kind, data, model))
    median = expected.pop("median_angle", None)
    reports = [run(kind, data, model, batch_size=size)[0] for size in (1, 2, 5)]
    for report in reports:
        assert report == pytest.approx(reports[0], rel=1e-6)
        means = dict(report)
        if median is not None:
            assert means.pop("median_angle") == pytest.approx(median, abs=0.05)
        assert means == pytest.approx(expected, rel=1e-5)


def test_with_as_many_pixels_as_an_image_has_the_median_is_right_to_a_thousandth_of_a_degree():
    draw = torch.Generator().manual_seed(1)
    targets = nn.functional.normalize(torch.randn(2, 3, 288, 384, generator=draw, dtype=torch.float64), dim=1).float()
    inputs = targets + 0.5 * torch.randn(2, 3, 288, 384, generator=draw)
    found, _ = run("normal", TensorSamples(inputs, targets), nn.Identity())
    angles = angles_by_definition(inputs.movedim(1, -1).double().numpy(), targets.movedim(1, -1).double().numpy())
    assert found["median_angle"] == pytest.approx(np.median(angles), abs=1e-3)
    assert found["within_22_5"] == pytest.approx((angles < 22.5).mean(), abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_leaves_means_over_its_valid_pixels(kind):
    data, model = samples(kind), convolution(KINDS[kind][2])
    _, result = run(kind, data, model, batch_size=2)
    found, targets = maps(kind, data, model)
    columns = {key: values for key, values in result.samples.items() if key != "index"}
    for index, pixels in enumerate(columns.pop("pixels")):
        one = found[index : index + 1], targets[index : index + 1]
        if index == 4:
            assert pixels == 0
            assert {float(values[4]) for values in columns.values()} == {0.0}
        elif kind == "segmentation":
            labelled = one[1] >= 0
            logs = one[0] - np.log(np.exp(one[0]).sum(axis=-1, keepdims=True))
            losses = -np.take_along_axis(logs, np.maximum(one[1], 0).astype(int)[..., None], axis=-1)[..., 0]
            assert columns["accuracy"][index] == pytest.approx(segmentation_by_definition(*one)["pixel_accuracy"])
            assert columns["loss"][index] == pytest.approx(losses[labelled].mean(), rel=1e-5)
            assert pixels == labelled.sum()
        elif kind == "depth":
            expected = depth_by_definition(*one)
            assert columns["absolute_error"][index] == pytest.approx(expected["abs_err"], rel=1e-5)
            assert columns["relative_error"][index] == pytest.approx(expected["rel_err"], rel=1e-5)
            assert pixels == (one[1] > 0).sum()
        else:
            angles = angles_by_definition(*one)
            assert columns["angle"][index] == pytest.approx(angles.mean(), rel=1e-5)
            assert pixels == len(angles)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bootstrap_over_images_gives_standard_errors(kind):
    _, result = run(kind, samples(kind), convolution(KINDS[kind][2]), bootstrap=20)
    assert result.standard_errors.keys() == result.metrics.keys()
    assert all(0 < error < 5 for error in result.standard_errors.values())


@pytest.mark.parametrize("net", ["resnet18", "resnet50"])
def test_encoder_decoders_and_metrics_are_those_of_fusion_bench(net):
    golden, data = np.load(GOLDEN), scenes()
    encoder = filled(DilatedResNet(layers=int(net[-2:])))
    assert list(encoder.state_dict()) == golden[f"{net}/names"].tolist()
    images = data["image"].movedim(-1, 1)
    with torch.no_grad():
        features = encoder(images)
    assert features[:, ::64].numpy() == pytest.approx(golden[f"{net}/features"], rel=1e-4, abs=1e-4)
    for kind, (_, _, channels) in KINDS.items():
        decoder = filled(ASPPDecoder(features.shape[1], channels))
        assert list(decoder.state_dict()) == golden[f"{net}/{kind}/names"].tolist()
        with torch.no_grad():
            decoded = decoder(features)
        assert decoded.numpy() == pytest.approx(golden[f"{net}/{kind}/map"], rel=1e-4, abs=1e-4)
        report, _ = run(kind, TensorSamples(decoded, target_of(kind, data)), nn.Identity(), batch_size=2)
        expected = golden[f"{net}/{kind}/metrics"]
        if kind == "normal":
            assert report.pop("median_angle") == pytest.approx(expected[1], abs=0.01)
            expected = np.delete(expected, 1)
        assert list(report.values()) == pytest.approx(expected, rel=1e-4)


def test_a_class_that_is_nowhere_is_left_out_of_the_mean():
    labels = torch.tensor([[[0, 1], [1, -1]]])
    logits = nn.functional.one_hot(torch.tensor([[[0, 1], [0, 2]]]), 13).movedim(-1, 1).float()
    found, _ = run("segmentation", TensorSamples(logits, labels), nn.Identity())
    assert found["mean_iou"] == pytest.approx((1 / 2 + 1 / 2) / 2)  # the third class is predicted where nothing counts
    assert found["pixel_accuracy"] == pytest.approx(2 / 3)


def test_angles_keep_their_digits_at_the_ends_and_nothing_points_nowhere():
    true = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 3, 0]]).t().reshape(1, 3, 2, 2)
    tiny = np.radians(1e-3)
    found = torch.tensor([[np.cos(tiny), np.sin(tiny), 0], [-2, 0, 0], [0, 0, 0], [0, 1, 0]]).t().reshape(1, 3, 2, 2)
    prediction = task("normal", samples("normal")).predict(nn.Identity(), None, (found.float(), true), None)
    assert prediction.columns["angle"].tolist() == pytest.approx([(1e-3 + 180 + 90 + 0) / 4], rel=1e-9)


@pytest.mark.parametrize("angle", [11.25, 22.5, 30])
def test_a_threshold_itself_is_not_within(angle):
    assert AngleWithin(angle).bins == angle * 20
    metric, statistics = AngleWithin(angle), torch.zeros(1, 3601)
    statistics[0, 1 + int(angle * 20)] = 1  # the bin that begins at the threshold
    metric.update(statistics, torch.tensor([1]))
    assert float(metric.compute()) == 0
    metric.update(statistics.roll(-1), torch.tensor([1]))
    assert float(metric.compute()) == 0.5


@pytest.mark.parametrize("degrees", [0, 11.26, 180.05, -5])
def test_a_threshold_within_a_bin_is_refused(degrees):
    with pytest.raises(ValueError, match=r"expected a multiple of 0\.05 up to 180"):
        AngleWithin(degrees)


def test_the_median_of_one_bin_lies_in_it():
    metric, statistics = MedianAngle(), torch.zeros(1, 3601)
    statistics[0, -1] = 4
    metric.update(statistics, torch.tensor([4]))
    assert float(metric.compute()) == pytest.approx(179.975)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_without_a_valid_pixel_anywhere_are_refused(kind):
    empty = {
        "segmentation": torch.full((2, 4, 6), -1),
        "depth": torch.zeros(2, 4, 6),
        "normal": torch.zeros(2, 3, 4, 6),
    }
    data = TensorSamples(torch.randn(2, 3, 4, 6), empty[kind])
    with pytest.raises(TaskError, match="no pixel of any target is valid"):
        run(kind, data, convolution(KINDS[kind][2]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_is_no_number_is_refused(kind):
    data = samples(kind)
    data.inputs[2, 0, 3, 3] = float("nan")
    with pytest.raises(TaskError, match="not finite on this task"):
        run(kind, data, convolution(KINDS[kind][2]))


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        (
            "segmentation",
            torch.full((1, 4, 6), 13),
            r"label 13 is outside the 13 classes \[0, 12\] and not ignore_index=-1",
        ),
        ("segmentation", torch.full((1, 4, 6), -2), "label -2 is outside"),
        ("segmentation", torch.zeros(1, 4, 6), r"integers \(height, width\); found torch.float32 of shape \(1, 4, 6\)"),
        ("segmentation", torch.tensor([1]), r"integers \(height, width\); found torch.int64 of shape \(1,\)"),
        ("segmentation", ["wall"], r"found \['wall'\]"),
        ("depth", torch.full((1, 4, 6), -0.1), "negative or not finite"),
        ("depth", torch.full((1, 1, 4, 6), float("nan")), "negative or not finite"),
        ("depth", torch.full((1, 4, 6), float("inf")), "negative or not finite"),
        ("depth", torch.zeros(1, 2, 4, 6), r"found \(1, 2, 4, 6\)"),
        ("depth", ["far"], r"found \['far'\]"),
        ("normal", torch.zeros(1, 4, 6), r"normals \(3, height, width\); found \(1, 4, 6\)"),
        ("normal", torch.full((1, 3, 4, 6), float("nan")), "not finite"),
        ("normal", ["up"], r"found \['up'\]"),
    ],
)
def test_targets_that_are_no_such_map_are_refused(kind, targets, message):
    with pytest.raises(TaskError, match=message):
        task(kind, samples(kind)).check((torch.zeros(1, 3, 4, 6), targets), samples(kind))


def test_other_labels_can_be_ignored():
    labels = torch.tensor([[[0, 255], [1, 1]]])
    logits = nn.functional.one_hot(torch.tensor([[[0, 1], [0, 1]]]), 2).movedim(-1, 1).float()
    fields = {"num_classes": 2, "ignore_index": 255}
    found, _ = run("segmentation", TensorSamples(logits, labels), nn.Identity(), fields)
    assert found["pixel_accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("model", "head", "message"),
    [
        (convolution(5), None, r"shape \(5, 13, height, width\), found \(5, 5, 9, 12\); if these are features"),
        (convolution(5), nn.Conv2d(5, 2, 1), r"shape \(5, 13, height, width\), found \(5, 2, 9, 12\)$"),
        (nn.Flatten(), None, r"shape \(5, 13, height, width\), found \(5, 1296\)"),
    ],
)
def test_a_map_of_another_shape_is_refused(model, head, message):
    data = samples("segmentation")
    with pytest.raises(TaskError, match=message):
        task("segmentation", data).predict(model, head, (data.inputs, data.targets), data)


def test_maps_are_found_in_the_outputs_of_hugging_face():
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    sizes = {"depths": [1, 1], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2], "num_encoder_blocks": 2}
    lists = {"sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]}
    config = SegformerConfig(**sizes, **lists, decoder_hidden_size=8, num_labels=13)
    model, data = SegformerForSemanticSegmentation(config).eval(), samples("segmentation")
    with torch.no_grad():
        logits = model(data.inputs).logits
    found, _ = run("segmentation", data, model)
    again, _ = run("segmentation", TensorSamples(logits, data.targets), nn.Identity())
    assert found == pytest.approx(again)


def test_what_returns_no_map_is_refused():
    class Words(nn.Module):
        def forward(self, inputs):
            return {"text": "a chair"}

    data = samples("depth")
    with pytest.raises(TaskError, match="returned dict without any of logits, predicted_depth"):
        task("depth", data).predict(Words(), None, (data.inputs, data.targets), data)


def test_other_metrics_are_refused():
    data = samples("segmentation")
    with pytest.raises(TaskError, match=r"metrics\.top1: made MulticlassAccuracy; Segmentation takes the metrics of"):
        Segmentation(Held(data), {"top1": partial(MulticlassAccuracy, num_classes=13)}).build_metrics(data)
    with pytest.raises(TaskError, match=r"metrics\.close: .*degrees"):
        SurfaceNormals(Held(data), {"close": AngleWithin}).build_metrics(data)


def test_one_class_is_no_segmentation():
    with pytest.raises(ConfigError, match="num_classes: expected at least 2, found 1"):
        Segmentation(Held(samples("depth")), metrics("segmentation"), num_classes=1)
