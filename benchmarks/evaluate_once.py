"""One measurement of an evaluation in a fresh process: `evaluate_once.py JOB.json`. Runs in the tool's own Python.

A job is `{"tool", "clip", "experts": [two paths], "data", "merges", "precision", "cache", "out"}`. Packages are
imported before the clock starts. Writes seconds and metrics by name to `measured.json` in `out`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["TA8", "TOOLS"]

Job = dict[str, Any]
Measured = dict[str, float]

TA8 = ("sun397", "stanford_cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
_SIZES = (8, 16, 32, 64, 128)


def bare(job: Job) -> Callable[[], Measured]:
    """The limit: `inference_mode` forwards over preprocessed images in memory, at the fastest batch size."""
    import datasets
    import torch
    from transformers import CLIPImageProcessorPil, CLIPModel

    dtype = torch.bfloat16 if job["precision"] == "bf16-true" else torch.float32
    processor = CLIPImageProcessorPil.from_pretrained(job["clip"])
    rows = datasets.load_from_disk(job["data"])
    images = torch.cat([processor(row["image"], return_tensors="pt").pixel_values for row in rows]).to(dtype)
    clip = CLIPModel.from_pretrained(job["clip"]).eval().to(dtype)
    classes = torch.randn(10, clip.config.projection_dim, dtype=dtype)

    def forwards(size: int, count: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for batch in images[:count].split(size):
                (clip.visual_projection(clip.vision_model(batch).pooler_output) @ classes.T).argmax(dim=-1)
        return time.perf_counter() - started

    def measure() -> Measured:
        sizes = [size for size in _SIZES if 2 * size <= len(images)]
        per_image = {size: min(forwards(size, 2 * size) for _ in range(2)) / size for size in sizes}
        size = min(per_image, key=per_image.__getitem__)
        return {"evaluation": forwards(size, len(images)), "batch size": size}

    return measure


def ours(job: Job) -> Callable[[], Measured]:
    """Our task on our runner, nothing prepared: a first merge, a second, and as many more as asked for."""
    from fusion_eval.merging import TaskArithmetic
    from fusion_eval.merging.memory import process_memory

    process_memory.limit = 2 * 10**9
    pool, models, runner = _ours(job)

    def evaluate(scaling: float) -> tuple[float, Measured]:
        model = models.merge(TaskArithmetic(scaling))
        started = time.perf_counter()
        metrics = pool.evaluate(model, runner)["mnist"]
        return time.perf_counter() - started, dict(metrics)

    def measure() -> Measured:
        pool.tasks["mnist"].head.load()  # measured by `our_heads`
        first, metrics = evaluate(0.1)
        second, _ = evaluate(0.2)
        started = time.perf_counter()
        for number in range(job["merges"]):
            evaluate(0.3 + number / 100)
        return {
            "first evaluation": first,
            "evaluation": second,
            "merges and evaluations": time.perf_counter() - started,
            **metrics,
        }

    return measure


def fusion_bench(job: Job) -> Callable[[], Measured]:
    """fusion-bench's task pool: a first model, and a second."""
    from transformers import CLIPVisionModel

    pool = _fusion_bench(job)
    models = [CLIPVisionModel.from_pretrained(path) for path in job["experts"]]

    def measure() -> Measured:
        seconds = []
        for model in models:
            started = time.perf_counter()
            pool.evaluate(model)
            seconds.append(time.perf_counter() - started)
        return {"first evaluation": seconds[0], "evaluation": seconds[1]}

    return measure


def our_pipeline(job: Job) -> Callable[[], Measured]:
    """What a GPU would be fed: our runner with a model that does nothing, on data that is prepared."""
    import torch
    from torch import nn

    pool, _, runner = _ours(job)

    def nothing(seed: int) -> nn.Module:
        features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 768))
        torch.manual_seed(seed)
        nn.init.normal_(features[2].weight)
        return _TakesPixels(features)

    def measure() -> Measured:
        pool.evaluate(nothing(0), runner)
        started = time.perf_counter()
        pool.evaluate(nothing(1), runner)
        return {"evaluation": time.perf_counter() - started}

    return measure


def _TakesPixels(features: Any) -> Any:  # noqa: N802
    """The module under the name of argument that vision encoders have."""
    from torch import nn

    class TakesPixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = features

        def forward(self, pixel_values: Any) -> Any:
            return self.features(pixel_values)

    return TakesPixels()


def fusion_bench_pipeline(job: Job) -> Callable[[], Measured]:
    """The same of fusion-bench: its loader alone, without any model."""
    loader = _fusion_bench(job).test_dataloaders["mnist"]

    def measure() -> Measured:
        started = time.perf_counter()
        for _ in loader:
            pass
        return {"evaluation": time.perf_counter() - started}

    return measure


def our_heads(job: Job) -> Callable[[], Measured]:
    """Text heads of TA8: a first time, and again."""
    from fusion_eval.models import CLIPTextTower, ZeroShotHead

    heads = [ZeroShotHead(CLIPTextTower(job["clip"]), task) for task in TA8]

    def measure() -> Measured:
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            for head in heads:
                head.load()
            seconds.append(time.perf_counter() - started)
        return {"first evaluation": seconds[0], "evaluation": seconds[1]}

    return measure


def fusion_bench_heads(job: Job) -> Callable[[], Measured]:
    """The same of fusion-bench, which makes them for every evaluation."""
    from fusion_bench.models.hf_clip import HFCLIPClassifier
    from fusion_bench.tasks.clip_classification import get_classnames_and_templates
    from transformers import CLIPModel, CLIPProcessor

    names = [task.replace("_", "-") for task in TA8]
    classifier = HFCLIPClassifier(CLIPModel.from_pretrained(job["clip"]), CLIPProcessor.from_pretrained(job["clip"]))
    prompts = [get_classnames_and_templates(name) for name in names]

    def measure() -> Measured:
        started = time.perf_counter()
        for classes, templates in prompts:
            classifier.set_classification_task(classes, templates)
        seconds = time.perf_counter() - started
        return {"first evaluation": seconds, "evaluation": seconds}

    return measure


def our_overhead(job: Job) -> Callable[[], Measured]:
    """The embedded pool: our runner and a bare loop, with few and with many batches."""
    import torch

    from fusion_eval import build, compose
    from fusion_eval.engine import Runner
    from fusion_eval.models import MergedModel

    cfg = compose([])
    pool, models = build(cfg.taskpool), build(cfg.modelpool)
    samples = {name: task.data.load() for name, task in pool.tasks.items()}
    heads = {name: head.load() for name, head in models.heads.items()}
    backbone = models.architecture().eval()

    def loop(size: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for name, of_task in samples.items():
                for batch in of_task.inputs.split(size):
                    heads[name](backbone(batch)).argmax(dim=-1)
        return time.perf_counter() - started

    def run(size: int) -> float:
        runner = Runner(batch_size=size, bootstrap=0)
        with torch.no_grad():
            next(backbone.parameters()).add_(1e-4)  # another model: nothing is remembered
        started = time.perf_counter()
        pool.evaluate(MergedModel(backbone, heads), runner)
        return time.perf_counter() - started

    def measure() -> Measured:
        run(64), loop(64)
        few, many = 128, 8
        batches = {size: sum(-(-len(of_task) // size) for of_task in samples.values()) for size in (few, many)}
        over = {size: min(run(size) for _ in range(3)) - min(loop(size) for _ in range(3)) for size in (few, many)}
        per_batch = (over[many] - over[few]) / (batches[many] - batches[few])
        per_task = (over[few] - per_batch * batches[few]) / len(samples)
        return {"ms a batch": 1e3 * per_batch, "ms a task": 1e3 * per_task}

    return measure


def _ours(job: Job) -> Any:
    from fusion_eval import build, compose

    first, second = job["experts"]
    cfg = compose(
        [
            "taskpool=clip_single_mnist",
            f"taskpool.tasks.mnist.data.path={job['data']}",
            "taskpool.tasks.mnist.data.expected_size=null",
            "modelpool=clip_vit_b32_ta8",
            f"modelpool.base={job['clip']}",
            f"modelpool.experts.mnist={first}",
            f"modelpool.experts.dtd={second}",
            *(f"~modelpool.experts.{task}" for task in TA8 if task not in ("mnist", "dtd")),
            f"data.cache.path={job['cache']}",
            f"precision={job['precision']}",
            "batch_size=auto",
            "bootstrap=0",
            "progress=false",
            "store=off",
        ]
    )
    return build(cfg.taskpool), build(cfg.modelpool), build(cfg.runner)


def _fusion_bench(job: Job) -> Any:
    import datasets
    from fusion_bench.taskpool import CLIPVisionModelTaskPool

    rows = datasets.load_from_disk(job["data"])
    loader = {"batch_size": 128, "shuffle": False, "num_workers": 0}
    pool = CLIPVisionModelTaskPool(
        {"mnist": rows}, processor=job["clip"], clip_model=job["clip"], dataloader_kwargs=loader
    )
    pool.setup()
    return pool


TOOLS: dict[str, Callable[[Job], Callable[[], Measured]]] = {
    tool.__name__: tool
    for tool in (
        bare,
        ours,
        fusion_bench,
        our_pipeline,
        fusion_bench_pipeline,
        our_heads,
        fusion_bench_heads,
        our_overhead,
    )
}
"""Tool to the function that imports it and prepares a job: what that returns is timed."""


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    measured = TOOLS[job["tool"]](job)()
    Path(job["out"], "measured.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
