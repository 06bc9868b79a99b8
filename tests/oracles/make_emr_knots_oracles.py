"""Writes emr_knots.safetensors: what FusionBench's EMR-Merging and its parts of KnOTS make of small models.

It has a virtual environment of its own, with a CPU build of torch installed first so that no CUDA build is taken:

    python -m venv /tmp/fb && /tmp/fb/bin/pip install torch==2.13.0 && /tmp/fb/bin/pip install fusion-bench==0.2.33
    /tmp/fb/bin/python tests/oracles/make_emr_knots_oracles.py

Keys under `emr/`, for the models in merging.safetensors, each of them flat, its tensors in the order of their names:
`unified`, the unified vector; `<expert>/mask`, uint8; `<expert>/model`, the model for that task; and, one number an
expert, `rescalers/<cut>`, where the cut says what counts as a tensor, which FusionBench's rescalers depend on.

Keys under `emr/grid/`: the same of every triple of task vectors of one parameter with values -2 to 2, so that the signs
often weigh exactly the same.

Keys under `knots/`: `<model>/<layer>`, the base and experts that are it plus a product of thin matrices;
`<eps>/<layer>/{U,S,Vh}`, FusionBench's alignment of their task vectors, and `<eps>/<share>/<consensus>`, what its TIES
makes of `diag(S) Vh` in that space, all layers in one. FusionBench has no KnOTS merge: the two are put together here.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from fusion_bench import BaseModelPool
from fusion_bench.method.emr_merging import EMRMerging
from fusion_bench.method.emr_merging.utils import emr_merge
from fusion_bench.method.knots.knots_utils import subspace_alignment
from fusion_bench.method.ties_merging.ties_merging_utils import ties_merging, topk_values_mask
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).parent
EXPERTS = ("one", "two", "three")
CONFIG = LlamaConfig(
    vocab_size=16,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)
PIECE = 8  # divides the size of every tensor of the models
LAYERS = {"tall": (16, 10), "wide": (8, 20), "full rank": (5, 9)}
RANK = 2
NEARLY_NOTHING = 2e-6  # a direction with singular values between the authors' eps and that of FusionBench
EPS = (1e-4, 1e-5)
SHARES = (0.2, 0.6, 0.999)  # the last is all: FusionBench keeps one value more than the share, and cannot take 1


def flat(state_dict: dict[str, Tensor]) -> Tensor:
    return torch.cat([state_dict[name].detach().flatten() for name in sorted(state_dict)])


def llama(state_dict: dict[str, Tensor]) -> LlamaForCausalLM:
    model = LlamaForCausalLM(CONFIG).double()
    model.load_state_dict(state_dict)
    return model


def emr() -> dict[str, Tensor]:
    stored = load_file(FOLDER / "merging.safetensors")
    models = {
        model: {key.removeprefix(f"{model}/"): t.double() for key, t in stored.items() if key.startswith(f"{model}/")}
        for model in ("base", *EXPERTS)
    }
    base, *experts = map(flat, models.values())
    cuts = {
        "one tensor": [{"all": expert - base} for expert in experts],
        "equal tensors": [dict(enumerate((expert - base).split(PIECE))) for expert in experts],
    }
    found = {f"rescalers/{cut}": emr_merge(vectors)[2] for cut, vectors in cuts.items()}

    pool = {name: llama(state_dict) for name, state_dict in models.items()}
    merged = EMRMerging().run(BaseModelPool({"_pretrained_": pool.pop("base"), **pool}))
    found["unified"] = flat(merged.unified_task_vector.state_dict())
    found["rescalers/tensors"] = torch.stack([merged.modulators[expert].rescaler.detach() for expert in EXPERTS])
    for expert in EXPERTS:
        found[f"{expert}/mask"] = flat(merged.modulators[expert].mask.state_dict()).to(torch.uint8)
        merged.set_task(expert)
        found[f"{expert}/model"] = flat(merged.backbone.state_dict())
    return {f"emr/{key}": tensor for key, tensor in found.items()}


def emr_grid() -> dict[str, Tensor]:
    vectors = torch.cartesian_prod(*[torch.arange(-2.0, 3.0)] * 3).T
    unified, masks, _ = emr_merge([{"w": vector} for vector in vectors])
    return {
        "emr/grid/vectors": vectors,
        "emr/grid/unified": unified["w"],
        "emr/grid/masks": torch.stack(masks["w"]).to(torch.uint8),
    }


def adapted() -> dict[str, dict[str, Tensor]]:
    """The base, and experts like LoRA adapters: float64."""
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    base = {layer: random(*shape) for layer, shape in LAYERS.items()}
    models = {"base": base}
    for expert in EXPERTS:
        models[expert] = {
            layer: tensor + random(len(tensor), RANK) @ random(RANK, tensor.shape[1]) for layer, tensor in base.items()
        }
    models["one"]["tall"] += NEARLY_NOTHING * torch.outer(random(16), random(10))
    return models


def knots() -> dict[str, Tensor]:
    models = adapted()
    found = {f"{model}/{layer}": tensor for model, layers in models.items() for layer, tensor in layers.items()}
    for eps in EPS:
        common, aligned = {}, {}
        for layer in LAYERS:
            vectors = [models[expert][layer] - models["base"][layer] for expert in EXPERTS]
            common[layer], sizes, rows = subspace_alignment(vectors, eps=eps)
            aligned[layer] = torch.stack([sizes[:, None] * own for own in rows])
            found |= {f"{eps}/{layer}/U": common[layer], f"{eps}/{layer}/S": sizes}
            found[f"{eps}/{layer}/Vh"] = torch.stack(rows)
        together = torch.cat([vectors.flatten(1) for vectors in aligned.values()], dim=1)
        for share in SHARES:
            found[f"{eps}/{share}/ties"] = ties_merging(together, reset_thresh=share, merge_func="mean")
            found[f"{eps}/{share}/sum"] = topk_values_mask(together, K=share)[0].sum(dim=0)
    return {f"knots/{key}": tensor for key, tensor in found.items()}


def main() -> None:
    tensors = emr() | emr_grid() | knots()
    metadata = {"fusion-bench": version("fusion-bench"), "torch": torch.__version__}
    save_file({key: t.clone().contiguous() for key, t in tensors.items()}, FOLDER / "emr_knots.safetensors", metadata)


if __name__ == "__main__":
    main()
