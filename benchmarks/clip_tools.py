"""What is measured with a CLIP, ours and a bare loop: a function imports and prepares, and returns what is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from evaluate_once import COUNTS, TA8, Job, Measured

_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)


def bare(job: Job) -> Callable[[], Measured]:
    """The limit: `inference_mode` forwards over preprocessed images in memory, at the fastest batch size."""
    import datasets
    import torch
    from transformers import CLIPImageProcessorPil, CLIPModel

    device = torch.device(job["device"])
    dtype = torch.bfloat16 if job["precision"] == "bf16-true" else torch.float32
    processor = CLIPImageProcessorPil.from_pretrained(job["clip"])
    rows = datasets.load_from_disk(job["data"])
    distinct = [
        processor(row["image"], return_tensors="pt").pixel_values for row in rows.select(range(job["distinct"]))
    ]
    images = torch.cat(distinct).to(device, dtype)[torch.arange(len(rows)) % len(distinct)]
    clip = CLIPModel.from_pretrained(job["clip"]).eval().to(device, dtype)
    classes = torch.randn(10, clip.config.projection_dim, dtype=dtype, device=device)

    def forwards(size: int, count: int) -> float:
        _wait(job)
        started = time.perf_counter()
        with torch.inference_mode():
            for batch in images[:count].split(size):
                (clip.visual_projection(clip.vision_model(batch).pooler_output) @ classes.T).argmax(dim=-1)
        _wait(job)
        return time.perf_counter() - started

    def measure() -> Measured:
        sizes = [size for size in _SIZES if 2 * size <= len(images)] or [len(images)]
        per_image = {size: min(forwards(size, min(2 * size, len(images))) for _ in range(2)) / size for size in sizes}
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
        _wait(job)
        started = time.perf_counter()
        metrics = pool.evaluate(model, runner)["mnist"]  # its values are on the CPU: nothing is left to wait for
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


def our_preparation(job: Job) -> Callable[[], Measured]:
    """One preparation: a first evaluation of a model that does nothing, without what the second one takes."""
    pool, _, runner = _ours(job)

    def measure() -> Measured:
        pool.tasks["mnist"].head.load()
        first, second = (_timed(lambda seed=seed: pool.evaluate(_nothing(seed), runner)) for seed in (0, 1))
        return {"evaluation": first - second}

    return measure


def our_pipeline(job: Job) -> Callable[[], Measured]:
    """What a GPU would be fed: batches of prepared samples, which it normalises itself; and what the runner feeds."""
    import numpy as np
    import torch

    from fusion_eval.engine.access import Access
    from fusion_eval.engine.batch_size import BatchSize
    from fusion_eval.engine.reading import Feed

    pool, _, runner = _ours(job)
    data, cpu = pool.tasks["mnist"].data, torch.device("cpu")
    samples = data.load()
    indices = np.arange(len(samples))
    access = Access(runner.cache, "off", cpu, lambda done: None)
    reader = access.open(data, samples, samples.fingerprint(), indices, lambda batch: None)
    feed = Feed(reader, BatchSize(128, cpu), num_workers=0, pin_memory=False)

    def batches() -> None:
        for _ in feed.batches(indices):
            pass

    def measure() -> Measured:
        batches(), pool.evaluate(_nothing(0), runner)
        return {
            "evaluation": min(_timed(batches) for _ in range(3)),
            "runner": _timed(lambda: pool.evaluate(_nothing(1), runner)),
        }

    return measure


def our_pool(job: Job) -> Callable[[], Measured]:
    """A pool of TA8's sizes, its images prepared: a second merge, as a job of a sweep."""
    from clip_and_images import Photographs

    from fusion_eval import Classification, TaskPool
    from fusion_eval.merging import TaskArithmetic

    of_one, models, runner = _ours(job)
    task = of_one.tasks["mnist"]
    counts = [max(1, round(job["pool"] * count / sum(COUNTS))) for count in COUNTS]
    data = [Photographs(job["jpeg"], count, seed) for seed, count in enumerate(counts)]
    tasks = [Classification(source, task.metrics, head=task.head) for source in data]
    pool = TaskPool(dict(zip(TA8, tasks, strict=True)))

    def evaluate(scaling: float) -> float:
        model = models.merge(TaskArithmetic(scaling))
        _wait(job)
        return _timed(lambda: pool.evaluate(model, runner))

    def measure() -> Measured:
        first, second = evaluate(0.1), evaluate(0.2)
        return {"first evaluation": first, "evaluation": second, "images": sum(counts)}

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


def _nothing(seed: int) -> Any:
    """A model that does nothing to speak of; another one with another seed."""
    import torch
    from torch import nn

    features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 768))
    torch.manual_seed(seed)
    nn.init.normal_(features[2].weight)
    return _TakesPixels(features)


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


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _wait(job: Job) -> None:
    """Let the device finish what it was given, before a clock is read."""
    import torch

    if job["device"] == "cuda":
        torch.cuda.synchronize()


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
            f"trainer={'gpu' if job['device'] == 'cuda' else 'cpu'}",
            "batch_size=auto",
            "bootstrap=0",
            "progress=false",
            "store=off",
        ]
    )
    return build(cfg.taskpool), build(cfg.modelpool), build(cfg.runner)
