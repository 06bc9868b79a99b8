"""What is measured of fusion-bench, in its own Python; see `clip_tools`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from evaluate_once import TA8, Job, Measured


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


def fusion_bench_pipeline(job: Job) -> Callable[[], Measured]:
    """The same of fusion-bench: its loader alone, without any model."""
    loader = _fusion_bench(job).test_dataloaders["mnist"]

    def measure() -> Measured:
        started = time.perf_counter()
        for _ in loader:
            pass
        return {"evaluation": time.perf_counter() - started}

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
