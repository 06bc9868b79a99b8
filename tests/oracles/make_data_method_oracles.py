"""Writes data_methods.safetensors: what FusionBench's methods with data make of two small networks.

It has a virtual environment of its own, with a CPU build of torch installed first so that no CUDA build is taken:

    python -m venv /tmp/fb && /tmp/fb/bin/pip install torch==2.13.0 && /tmp/fb/bin/pip install fusion-bench==0.2.33
    /tmp/fb/bin/python tests/oracles/make_data_method_oracles.py

Keys are `<model>/<tensor>`; a model is "base", one of EXPERTS, or the name of a recipe, and `inputs/<expert>` are the
calibration samples. The metadata holds the versions.

FusionBench's own Fisher information is no oracle: it squares the gradients of a sum over classes and batch, where the
paper sums squares. So the squares of each sample and class are summed here, and only merged by FusionBench.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from fusion_bench.method.adamerging.entropy_loss import entropy_loss
from fusion_bench.method.fisher_merging.fisher_merging import merging_with_fisher_weights
from fusion_bench.method.regmean.regmean import regmean_merging
from fusion_bench.models.wrappers.layer_wise_fusion import LayerWiseMergedModel, get_layer_wise_weights
from fusion_bench.models.wrappers.task_wise_fusion import TaskWiseMergedModel, get_task_wise_weights
from safetensors.torch import save_file
from torch import Tensor, nn

FIXTURE = Path(__file__).with_name("data_methods.safetensors")
EXPERTS = ("one", "two")
SAMPLES, WIDTH, CLASSES = 24, 6, 5
STEPS, LEARNING_RATE = 60, 0.02


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, CLASSES)).double()


def load(state_dict: dict[str, Tensor]) -> nn.Sequential:
    model = network()
    model.load_state_dict(state_dict)
    return model


def models(generator: torch.Generator) -> dict[str, dict[str, Tensor]]:
    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

    base = {name: noise(tensor) for name, tensor in network().state_dict().items()}
    return {"base": base} | {
        expert: {name: tensor + 0.5 * noise(tensor) for name, tensor in base.items()} for expert in EXPERTS
    }


def fisher(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for sample in inputs:
        for label in range(CLASSES):
            model.zero_grad()
            log_probability = model(sample[None]).log_softmax(dim=1)[0, label]
            log_probability.backward()
            for name, parameter in model.named_parameters():
                total[name] += log_probability.detach().exp() * parameter.grad**2
    return {name: one / len(inputs) for name, one in total.items()}


def merge_fisher(experts: list[nn.Module], inputs: list[Tensor], normalize: bool) -> dict[str, Tensor]:
    parameters = [dict(expert.named_parameters()) for expert in experts]
    stacked = {name: [one[name].detach() for one in parameters] for name in parameters[0]}
    information = [fisher(expert, samples) for expert, samples in zip(experts, inputs, strict=True)]
    return merging_with_fisher_weights(
        stacked, information, torch.ones(len(experts)).double() / len(experts), normalize, minimal_fisher_weight=0.0
    )


def merge_regmean(experts: list[nn.Module], inputs: list[Tensor], ratio: float) -> dict[str, Tensor]:
    def trainer(samples: Tensor) -> SimpleNamespace:
        batches = [{"input": batch} for batch in samples.split(8)]
        return SimpleNamespace(
            get_train_dataloader=lambda: batches, _train_batch_size=8, _prepare_inputs=lambda batch: batch
        )

    return regmean_merging(experts, [trainer(samples) for samples in inputs], [], [SAMPLES] * len(experts), ratio)


def merge_adaptively(merged: nn.Module, inputs: list[Tensor]) -> dict[str, Tensor]:
    optimizer = torch.optim.Adam([merged.merge_weight], lr=LEARNING_RATE)
    for _ in range(STEPS):
        merged.merge_weights()
        losses = [entropy_loss(merged(samples)) for samples in inputs]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    merged.merge_weights()
    return merged.merge_and_unload().state_dict()


def main() -> None:
    generator = torch.Generator().manual_seed(5)
    given = models(generator)
    inputs = [torch.randn(SAMPLES, WIDTH, generator=generator, dtype=torch.float64) * scale for scale in (1.0, 2.0)]
    inputs = [samples.float().double() for samples in inputs]  # exact in float32

    def experts() -> list[nn.Module]:
        return [load(given[name]) for name in EXPERTS]

    layers = len(given["base"])
    made = {
        "fisher": merge_fisher(experts(), inputs, normalize=False),
        "fisher_normalized": merge_fisher(experts(), inputs, normalize=True),
        "regmean_1": merge_regmean(experts(), inputs, 1.0),
        "regmean_0.9": merge_regmean(experts(), inputs, 0.9),
        "regmean_0.1": merge_regmean(experts(), inputs, 0.1),
        "adamerging_layer": merge_adaptively(
            LayerWiseMergedModel(get_layer_wise_weights(2, layers, 0.3), load(given["base"]), experts()), inputs
        ),
        "adamerging_task": merge_adaptively(
            TaskWiseMergedModel(get_task_wise_weights(2, 0.3), load(given["base"]), experts()), inputs
        ),
    }
    tensors = {f"{model}/{name}": tensor for model, named in (given | made).items() for name, tensor in named.items()}
    tensors |= {f"inputs/{expert}": samples for expert, samples in zip(EXPERTS, inputs, strict=True)}
    metadata = {"fusion-bench": version("fusion-bench"), "torch": torch.__version__}
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, FIXTURE, metadata)


if __name__ == "__main__":
    main()
