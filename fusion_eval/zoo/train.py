"""Train the embedded base and experts anew: `python -m fusion_eval.zoo.train`. README.md here tells the protocol."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from safetensors.torch import save
from torch import Tensor, nn

from fusion_eval.data.embedded import Embedded
from fusion_eval.merging import Average, MergingMethod, TaskArithmetic, Ties
from fusion_eval.zoo.encoder import Encoder
from fusion_eval.zoo.training import TASKS, Protocol, fine_tune, warm_up

__all__ = ["main"]

_SCALINGS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
_TIES = tuple(Ties(scaling=scaling, density=density) for density in (0.1, 0.2, 0.4) for scaling in (0.4, 0.6, 0.8, 1.0))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save and compare."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    options.output.mkdir(parents=True, exist_ok=True)
    base, experts, heads = _train(Protocol(seed=options.seed))
    _save(base, options.output / "base.safetensors")
    for task in TASKS:
        _save(experts[task], options.output / f"{task}.safetensors")
        _save(heads[task], options.output / f"{task}.head.safetensors")
    console = Console()
    console.print(_table(base, experts, heads))
    console.print(f"Checkpoints are in {options.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fusion_eval.zoo.train",
        description="Train the embedded base, experts and heads, save them, and compare them with merges (minutes).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/zoo"), help="directory of the checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and batches; the shipped ones have 0")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; another number changes the last bits")
    return parser


def _train(protocol: Protocol) -> tuple[Encoder, dict[str, Encoder], dict[str, nn.Linear]]:
    experts, heads = {}, {}
    with Progress() as progress:
        bar = progress.add_task("base", total=protocol.warm_up.steps)
        base, first_heads = warm_up(protocol, partial(progress.advance, bar))
        for task in TASKS:
            bar = progress.add_task(task, total=protocol.fine_tune.steps)
            tick = partial(progress.advance, bar)
            experts[task], heads[task] = fine_tune(task, base, first_heads[task], protocol, tick)
    return base, experts, heads


def _save(module: nn.Module, path: Path) -> None:
    # Not `save_file`, which makes files that only their owner can read.
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in module.state_dict().items()}))


def _table(base: Encoder, experts: Mapping[str, Encoder], heads: Mapping[str, nn.Linear]) -> Table:
    """Accuracy on the test splits; scaling and density are those with the best mean on the validation splits."""

    def merge(method: MergingMethod) -> dict[str, Encoder]:
        merged = Encoder()
        merged.load_state_dict(method(base.state_dict(), {task: experts[task].state_dict() for task in TASKS}))
        return dict.fromkeys(TASKS, merged)

    def best(methods: Sequence[MergingMethod]) -> MergingMethod:
        return max(methods, key=lambda method: sum(_accuracies(merge(method), heads, "val").values()))

    arithmetic = best([TaskArithmetic(scaling=scaling) for scaling in _SCALINGS])
    ties = best(_TIES)
    rows: dict[str, Mapping[str, Encoder]] = {
        "base": dict.fromkeys(TASKS, base),
        "average": merge(Average()),
        str(arithmetic): merge(arithmetic),
        str(ties): merge(ties),
        "experts": experts,
    }
    table = Table("model", *TASKS, "mean", title="Test accuracy and standard error, %")
    for name, encoders in rows.items():
        accuracies = _accuracies(encoders, heads, "test")
        errors = {task: (accuracies[task] * (1 - accuracies[task]) / _count(task)) ** 0.5 for task in TASKS}
        mean = sum(accuracies.values()) / len(TASKS)
        mean_error = sum(error**2 for error in errors.values()) ** 0.5 / len(TASKS)
        table.add_row(name, *(_cell(accuracies[task], errors[task]) for task in TASKS), _cell(mean, mean_error))
    return table


def _cell(value: float, error: float) -> str:
    return f"{100 * value:.1f} ± {100 * error:.1f}"


def _count(task: str) -> int:
    return len(Embedded(task, "test").load())


@torch.inference_mode()
def _accuracies(encoders: Mapping[str, Encoder], heads: Mapping[str, nn.Linear], split: str) -> dict[str, float]:
    accuracies = {}
    for task in TASKS:
        samples = Embedded(task, split).load()
        logits: list[Tensor] = [heads[task](encoders[task](part)) for part in torch.split(samples.inputs, 256)]
        accuracies[task] = float((torch.cat(logits).argmax(dim=1) == samples.targets).double().mean())
    return accuracies


if __name__ == "__main__":
    main()
