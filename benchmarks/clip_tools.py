"""What is measured with a CLIP, ours and a bare loop: a function imports and prepares, and returns what is timed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from evaluate_once import COUNTS, TA8, Job, Measured

_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)


def bare(job: Job) -> Callable[[], Measured]:
    """The limit: `inference_mode` forwards over preprocessed images in memory, at the fastest batch size."""
    from transformers import CLIPModel

    pixels = _pixels(job)
    clip = CLIPModel.from_pretrained(job["clip"]).eval().to(pixels)

    def measure() -> Measured:
        size = _fastest_size(clip.vision_model, clip.visual_projection, pixels)
        seconds = _timed(lambda: _forwards(clip.vision_model, clip.visual_projection, pixels, size))
        return {"evaluation": seconds, "batch size": size}

    return measure


def ours(job: Job) -> Callable[[], Measured]:
    """Our task on our runner, nothing prepared: a first merge, and a second."""
    pool, merge, runner = _sweep(job)

    def measure() -> Measured:
        found: Measured = {}
        for what, scaling in (("first evaluation", 0.1), ("evaluation", 0.2)):
            model, started = merge(scaling), _now()
            metrics = pool.evaluate(model, runner)["mnist"]
            found[what] = _now() - started
        return found | metrics

    return measure


def ours_by_turns(job: Job) -> Callable[[], Measured]:
    """A sweep, its data prepared: each merge is evaluated by us and then by the bare loop, as machines drift."""
    pool, merge, runner = _sweep(job)
    pixels = _pixels(job)
    head = copy.deepcopy(pool.tasks["mnist"].head.load()).to(pixels)

    def measure() -> Measured:
        for scaling in (0.1, 0.15):  # after which the batch size should be found
            model = merge(scaling)
            pool.evaluate(model, runner)
        size = _fastest_size(model.to(pixels), head, pixels)
        turns = []
        for number in range(job["merges"]):
            del model  # as a sweep does, so that the next merge takes its memory
            started = _now()
            model = merge(0.2 + number / 100)
            merged = _now()
            pool.evaluate(model, runner)
            evaluated = _now()
            bare = _timed(partial(_forwards, model.to(pixels), head, pixels, size))
            turns.append((merged - started, evaluated - merged, bare))
        merges, evaluations, bares = zip(*turns, strict=True)
        return {
            "evaluation": median(evaluations),
            "bare": median(bares),
            "ratio": median(ours / bare for _, ours, bare in turns),
            "merges and evaluations": sum(merges) + sum(evaluations),
            "bares": sum(bares),
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


def _pixels(job: Job) -> Any:
    """All images, preprocessed, on the device: shape `(n, 3, side, side)`."""
    import datasets
    import torch
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil.from_pretrained(job["clip"])
    rows = datasets.load_from_disk(job["data"])
    distinct = [
        processor(row["image"], return_tensors="pt").pixel_values for row in rows.select(range(job["distinct"]))
    ]
    dtype = torch.bfloat16 if job["precision"] == "bf16-true" else torch.float32
    return torch.cat(distinct).to(job["device"], dtype)[torch.arange(len(rows)) % len(distinct)]


def _forwards(backbone: Any, head: Any, pixels: Any, size: int) -> None:
    import torch

    with torch.inference_mode():
        for batch in pixels.split(size):
            head(backbone(batch).pooler_output).argmax(dim=-1)


def _fastest_size(backbone: Any, head: Any, pixels: Any) -> int:
    """The batch size that takes the least time for an image, by two runs of two batches."""
    sizes = [size for size in _SIZES if 2 * size <= len(pixels)] or [len(pixels)]
    per_image = {}
    for size in sizes:
        some = pixels[: 2 * size]
        run = partial(_forwards, backbone, head, some, size)
        per_image[size] = min(_timed(run) for _ in range(2)) / len(some)
    return min(per_image, key=per_image.__getitem__)


def _timed(run: Callable[[], object]) -> float:
    started = _now()
    run()
    return _now() - started


def _now() -> float:
    """Seconds, once the device has done what it was given."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _sweep(job: Job) -> Any:
    """The pool, its text head made (`our_heads` measures that), merges by their scaling, and the runner."""
    from fusion_eval.merging import TaskArithmetic
    from fusion_eval.merging.memory import process_memory

    process_memory.limit = 2 * 10**9
    pool, models, runner = _ours(job)
    pool.tasks["mnist"].head.load()
    return pool, lambda scaling: models.merge(TaskArithmetic(scaling)), runner


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
