"""One merge by one tool in a fresh process: `merge_once.py JOB.json`. Runs in the tool's own Python.

A job is `{"tool", "method", "base", "experts": {name: path}, "out", "keep"}`. Packages are imported before the clock
starts. Writes `{"seconds", "anonymous_before"}` to `measured.json` in `out`, and with "keep" what was merged in memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from process import resident_memory

__all__ = ["TOOLS", "mergekit_recipe"]

Job = dict[str, Any]
_BUFFER_BYTES = 2**20
_SLICE = 2**14
"""Elements: of a base and eight experts 0.6 MB, which a core's own cache holds."""


def read(job: Job) -> Callable[[], None]:
    """The limit of a merge into memory: every byte of the inputs once, from the page cache into one reused buffer."""
    return partial(_read_all, job, None)


def read_write(job: Job) -> Callable[[], None]:
    """The limit of a merge into a file: the same, and as many bytes as one model has written."""
    return partial(_read_all, job, Path(job["out"], "copy.bin"))


def _read_all(job: Job, copy: Path | None) -> None:
    sources = [] if job["method"] == "average" else [job["base"]]
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    for source in (*sources, *job["experts"].values()):
        with Path(source, "model.safetensors").open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    if copy:
        with copy.open("wb", buffering=0) as file:
            for _ in range(0, Path(source, "model.safetensors").stat().st_size, _BUFFER_BYTES):
                file.write(buffer)


def arithmetic(job: Job) -> Callable[[], None]:
    """The limit where arithmetic counts: the same as `read`, and then what the method computes, on all threads.

    It computes with slices that are in the cache, as many times as a model has slices.
    """
    import torch

    from fusion_eval.merging.consensus import weighted_sum
    from fusion_eval.merging.ranks import at_rank_of_rows, windows
    from fusion_eval.threads import for_each

    count = Path(job["base"], "model.safetensors").stat().st_size // 4 // _SLICE
    base, *experts = (torch.randn(_SLICE) for _ in range(1 + len(job["experts"])))
    trims = job["method"].startswith("ties")
    if trims:
        ties = _our_method(job["method"]).rule(
            {"w": base}, {name: {"w": expert} for name, expert in enumerate(experts)}
        )
    compute = {
        "average": lambda _slice: weighted_sum(experts, None).div_(len(experts)),
        "task_arithmetic": lambda _slice: weighted_sum((e - base for e in experts), None).mul_(0.3).add_(base),
    }.get(job["method"], lambda _slice: ties("w", base, torch.stack(experts)).add_(base))

    def magnitudes(_slice: int) -> list[torch.Tensor]:
        return [(expert - base).abs_() for expert in experts]

    def read_and_compute() -> None:
        _read_all(job, None)
        if trims:
            sample = [windows([values] * count) for values in magnitudes(0)]
            at_rank_of_rows(magnitudes, range(count), lambda: sample, count * _SLICE, int(0.8 * count * _SLICE))
        for_each(compute, range(count))

    return read_and_compute


def ours(job: Job) -> Callable[[], Any]:
    """`ModelPool.merge`: builds the module, merges the checkpoints into it."""
    return partial(_pool(job).merge, _our_method(job["method"]))


def ours_to_file(job: Job) -> Callable[[], Any]:
    """The same, each tensor also written to a safetensors file as soon as it is made."""
    return partial(_pool(job).merge, _our_method(job["method"]), save_to=str(Path(job["out"], "model.safetensors")))


def _pool(job: Job) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from fusion_eval.models import ModelPool

    architecture = partial(CLIPVisionModel, CLIPVisionConfig.from_pretrained(job["base"]))
    return ModelPool(architecture, job["base"], job["experts"])


def _our_method(name: str) -> Any:
    from fusion_eval import merging

    return {
        "average": merging.Average(),
        "task_arithmetic": merging.TaskArithmetic(scaling=0.3),
        "ties": merging.Ties(density=0.2),
        "ties_per_tensor": merging.Ties(density=0.2, trim="tensor"),
    }[name]


def mergekit(job: Job) -> Callable[[], None]:
    """mergekit's `run_merge`, which its command calls: reads the checkpoints, writes the merged one."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    recipe = MergeConfiguration.model_validate(mergekit_recipe(job))
    return partial(run_merge, recipe, job["out"], MergeOptions())


def mergekit_recipe(job: Job) -> dict[str, Any]:
    """What mergekit calls the method, and how it spells its hyper-parameters."""
    method, weight, options = {
        "average": ("linear", 1.0, {}),
        "task_arithmetic": ("task_arithmetic", 0.3, {"normalize": False}),
        "ties_per_tensor": ("ties", 1.0, {"density": 0.2, "normalize": True}),
    }[job["method"]]
    models = [{"model": path, "parameters": {"weight": weight}} for path in job["experts"].values()]
    base = {} if method == "linear" else {"base_model": job["base"]}
    return {"merge_method": method, "models": models, "parameters": options, "dtype": "float32"} | base


def fusion_bench(job: Job) -> Callable[[], Any]:
    """fusion-bench's algorithm classes on its model pool: loads Hugging Face modules, returns one."""
    from fusion_bench.method import SimpleAverageAlgorithm, TaskArithmeticAlgorithm, TiesMergingAlgorithm
    from fusion_bench.modelpool import CLIPVisionModelPool
    from omegaconf import OmegaConf

    algorithm = {
        "average": partial(SimpleAverageAlgorithm),
        "task_arithmetic": partial(TaskArithmeticAlgorithm, scaling_factor=0.3),
        "ties": partial(TiesMergingAlgorithm, scaling_factor=1.0, threshold=0.2, remove_keys=[], merge_func="mean"),
    }[job["method"]]()
    pool = CLIPVisionModelPool(OmegaConf.create({"_pretrained_": job["base"]} | job["experts"]))
    return partial(algorithm.run, pool)


TOOLS: dict[str, Callable[[Job], Callable[[], Any]]] = {
    tool.__name__: tool for tool in (read, read_write, arithmetic, ours, ours_to_file, mergekit, fusion_bench)
}
"""Tool to the function that imports it and prepares a job: what that returns is timed."""


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    merge = TOOLS[job["tool"]](job)
    before = resident_memory().anonymous
    start = time.perf_counter()
    merged = merge()
    seconds = time.perf_counter() - start
    Path(job["out"], "measured.json").write_text(json.dumps({"seconds": seconds, "anonymous_before": before}))
    if job["keep"] and job["tool"] in ("ours", "fusion_bench"):
        from safetensors.torch import save_file

        module = getattr(merged, "backbone", merged)
        save_file(dict(module.state_dict()), Path(job["out"], "model.safetensors"))


if __name__ == "__main__":
    main()
