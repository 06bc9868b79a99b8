"""What is measured of ours with the embedded pool; see `clip_tools`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import product

from evaluate_once import Job, Measured

_ROUNDS = 7
"""Of runner and loop in turn: their difference is a twentieth of either."""


def our_overhead(job: Job) -> Callable[[], Measured]:
    """The embedded pool: our runner, one for all models as in a sweep, and a bare loop, with few and with many batches.

    Runner and loop take turns, and the least of several rounds counts.
    """
    import torch

    from fusion_eval import build, compose
    from fusion_eval.engine import Runner
    from fusion_eval.models import MergedModel

    cfg = compose([])
    pool, models = build(cfg.taskpool), build(cfg.modelpool)
    samples = {name: task.data.load() for name, task in pool.tasks.items()}
    heads = {name: head.load() for name, head in models.heads.items()}
    backbone = models.architecture().eval()
    few, many = 128, 8
    runners = {size: Runner(batch_size=size, bootstrap=0) for size in (few, many)}

    def loop(size: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for name, of_task in samples.items():
                for batch in of_task.inputs.split(size):
                    heads[name](backbone(batch)).argmax(dim=-1)
        return time.perf_counter() - started

    def run(size: int) -> float:
        with torch.no_grad():
            next(backbone.parameters()).add_(1e-4)  # another model: nothing is remembered
        started = time.perf_counter()
        pool.evaluate(MergedModel(backbone, heads), runners[size])
        return time.perf_counter() - started

    def measure() -> Measured:
        least: dict[tuple[Callable[[int], float], int], float] = {}
        for _ in range(_ROUNDS):
            for tool, size in product((run, loop), runners):
                least[tool, size] = min(tool(size), least.get((tool, size), math.inf))
        over = {size: least[run, size] - least[loop, size] for size in runners}
        batches = {size: sum(-(-len(of_task) // size) for of_task in samples.values()) for size in (few, many)}
        per_batch = (over[many] - over[few]) / (batches[many] - batches[few])
        per_task = (over[few] - per_batch * batches[few]) / len(samples)
        return {"ms a batch": 1e3 * per_batch, "ms a task": 1e3 * per_task}

    return measure


def our_racing(job: Job) -> Callable[[], Measured]:
    """A sweep of the embedded pool, scalings 0.05 to 1 from 0.3 outwards: which share of the forwards racing takes."""
    from fusion_eval import TaskArithmetic, build, compose
    from fusion_eval.engine import Runner, SampleMemory
    from fusion_eval.racing import Racing
    from fusion_eval.racing.race import Scores

    cfg = compose([])
    pool, models, racing = build(cfg.taskpool), build(cfg.modelpool), Racing()
    runner = Runner(bootstrap=0)
    scalings = sorted((step / 20 for step in range(1, 21)), key=lambda scaling: abs(scaling - 0.3))

    def measure() -> Measured:
        samples, of, finished, best, mean = 0, 0, 0, {}, 0.0
        for scaling in scalings:
            model, memory = models.merge(TaskArithmetic(scaling)), SampleMemory()
            verdict = racing.run(pool.tasks, model, runner, best, finished, memory) if best else None
            if verdict is not None and verdict.dropped:
                samples, of = samples + verdict.samples, of + verdict.of
                continue
            results = pool.evaluate(model, runner, memory=memory).results
            count = sum(result.count for result in results.values())
            samples, of, finished = samples + count, of + count, finished + 1
            reached = sum(result.score for result in results.values()) / len(results)
            if reached > mean:
                mean = reached
                best = {name: Scores(r.primary, r.samples["index"], r.scores) for name, r in results.items()}
        return {"share": samples / of, "finished": finished}

    return measure
