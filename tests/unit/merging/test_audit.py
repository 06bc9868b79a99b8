"""The audit finds what would break a merge or spoil it, and nothing where all is well."""

import json
import math
import weakref
from collections.abc import Mapping
from importlib.resources import files

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from fusion_eval.errors import MergeError
from fusion_eval.merging import TaskArithmetic
from fusion_eval.merging.audit import audit, judge, survey
from fusion_eval.models import ModelPool
from fusion_eval.models.adapter import read_adapter
from fusion_eval.zoo import Encoder

TASKS = ("mnist", "optdigits", "scripts", "textures")


def weights(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "embed": torch.randn(40, 20, generator=draw),
        "bias": torch.randn(20, generator=draw),
        "scale": torch.randn((), generator=draw),
    }


def tuned(base, seed, by=0.1):
    draw = torch.Generator().manual_seed(seed)
    return {
        name: tensor + by * torch.randn(tensor.shape, generator=draw).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in base.items()
    }


def found(audit, *severities):
    return [(finding.check, finding.expert) for finding in audit.findings if finding.severity in severities]


def only(audit, check):
    (finding,) = (finding for finding in audit.findings if finding.check == check)
    return finding


@pytest.fixture(scope="module")
def zoo():
    folder = files("fusion_eval.zoo")
    return {name: load_file(str(folder / f"{name}.safetensors")) for name in ("base", *TASKS)}


@pytest.fixture
def zoo_experts(zoo):
    return {name: zoo[name] for name in TASKS}


# What is measured


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_statistics_are_those_of_the_whole_vectors(dtype):
    base = {"big": torch.randn(3, 70_001), "strided": torch.randn(30, 40).T, "zero_d": torch.tensor(2.0)}
    base = {name: tensor.to(dtype) for name, tensor in base.items()}
    experts = {key: tuned(base, seed, by=0.3) for seed, key in enumerate(("a", "b", "c"))}
    result = audit(base, experts)

    def vector(model):
        return torch.cat([model[name].double().flatten() for name in base])

    moves = {key: vector(expert) - vector(base) for key, expert in experts.items()}
    assert result.base.norm == pytest.approx(float(vector(base).norm()), rel=1e-12)
    for key, statistics in result.experts.items():
        assert statistics.norm == pytest.approx(float(moves[key].norm()), rel=1e-12)
        assert statistics.relative_norm == pytest.approx(float(moves[key].norm() / vector(base).norm()), rel=1e-12)
        matrices = [(base[name].double(), experts[key][name].double()) for name in ("big", "strided")]
        cosines = [float(torch.cosine_similarity(x.flatten(), y.flatten(), dim=0)) for x, y in matrices]
        assert statistics.cosine_to_base == pytest.approx(sum(cosines) / 2, rel=1e-9)
        for other, cosine in statistics.cosines.items():
            expected = float(torch.cosine_similarity(moves[key], moves[other], dim=0))
            assert cosine == pytest.approx(expected, abs=1e-12)
        assert (statistics.tensors, statistics.changed, statistics.parameters) == (3, 3, 3 * 70_001 + 1200 + 1)
        assert statistics.dtypes == (str(dtype).removeprefix("torch."),)


def test_order_and_threads_change_nothing(zoo, zoo_experts):
    first = audit(zoo["base"], zoo_experts)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        again = audit(zoo["base"], dict(reversed(zoo_experts.items())))
    finally:
        torch.set_num_threads(threads)
    assert again == first


class Lazy(Mapping):
    """Reads a tensor anew each time, as from disk, and knows how many it gave that are still alive."""

    def __init__(self, tensors):
        self.tensors, self.alive, self.most = tensors, 0, 0

    def __getitem__(self, name):
        tensor = self.tensors[name].clone()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(tensor, self._gone)
        return tensor

    def _gone(self):
        self.alive -= 1

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


def test_one_tensor_of_each_expert_is_in_memory(zoo, zoo_experts):
    lazy = {key: Lazy(expert) for key, expert in zoo_experts.items()}
    assert audit(zoo["base"], lazy) == audit(zoo["base"], zoo_experts)
    assert [expert.most for expert in lazy.values()] == [1] * 4


# Experts that belong together


def test_nothing_is_found_in_the_embedded_experts(zoo, zoo_experts):
    result = audit(zoo["base"], zoo_experts)
    assert result.findings == ()
    result.raise_for_errors()
    assert all(0.9 < expert.cosine_to_base < 1 for expert in result.experts.values())


def test_an_expert_initialised_apart_is_suspected(zoo, zoo_experts):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        stranger = Encoder().state_dict()
    result = audit(zoo["base"], {**zoo_experts, "stranger": stranger})
    assert found(result, "warning") == [("ancestry", "stranger")]
    matrices = sum(tensor.dim() > 1 for tensor in stranger.values())
    assert only(result, "ancestry").message.startswith(
        f"expert 'stranger' was probably not fine-tuned from this base: {matrices} of its {matrices} weight matrices"
    )
    assert found(result, "error") == []


def test_permuted_units_are_suspected(zoo, zoo_experts):
    draw = torch.Generator().manual_seed(0)
    permuted = {
        name: tensor[torch.randperm(len(tensor), generator=draw)] for name, tensor in zoo_experts["mnist"].items()
    }
    result = audit(zoo["base"], {**zoo_experts, "mnist": permuted})
    assert found(result, "warning") == [("ancestry", "mnist")]


def test_a_new_head_is_named(zoo, zoo_experts):
    draw = torch.Generator().manual_seed(0)
    head = {"head.weight": 0.05 * torch.randn(12, 384, generator=draw)}
    experts = {key: {**expert, **tuned(head, seed, by=0.01)} for seed, (key, expert) in enumerate(zoo_experts.items())}
    experts["textures"]["head.weight"] = 0.05 * torch.randn(12, 384, generator=draw)
    result = audit({**zoo["base"], **head}, experts)
    assert found(result, "warning") == [("ancestry", "textures")]
    assert only(result, "ancestry").tensors == ("head.weight",)


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
def test_fine_tuning_is_not_suspected_at_any_learning_rate(rate):
    torch.manual_seed(0)
    inputs = torch.randn(512, 16)

    def train(model, rate, steps, target):
        optimiser = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(steps):
            optimiser.zero_grad()
            nn.functional.mse_loss(model(inputs), target).backward()
            optimiser.step()
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def network():
        return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))

    base = train(model := network(), 1e-3, 200, inputs[:, :8].sin())
    expert = train(model, rate, 200, inputs[:, 8:].cos())
    apart = train(network(), 1e-3, 200, inputs[:, :8].sin())
    result = audit(base, {"tuned": expert, "apart": apart})
    suspected = [finding.expert for finding in result.findings if finding.check == "ancestry"]
    assert suspected == ["apart"]


def test_the_base_among_the_experts_and_twins_are_named():
    base = weights()
    one = tuned(base, 1)
    result = audit(base, {"one": one, "two": dict(one), "three": tuned(base, 3), "base_again": dict(base), "b": base})
    messages = [finding.message for finding in result.of("warning")]
    assert messages == [
        "expert 'b' is the base: every tensor is equal",
        "expert 'base_again' is the base: every tensor is equal",
        "experts 'one' and 'two' are equal in every tensor",
    ]
    assert result.experts["b"].cosines["one"] is None
    assert result.experts["one"].cosines["two"] == pytest.approx(1)


def test_experts_that_differ_in_one_element_are_no_twins():
    base = weights()
    one, other = tuned(base, 1), tuned(base, 1)
    other["bias"][-1] += 1e-6
    assert found(audit(base, {"one": one, "other": other}), "warning") == []
    barely = {**base, "scale": base["scale"] + 1e-6}
    result = audit(base, {"one": one, "barely": barely})
    assert ("identical", "barely") not in found(result, "warning")
    assert result.experts["barely"].changed == 1


def test_an_expert_that_does_not_fit_is_not_taken_for_the_base():
    base = weights()
    turned = {**base, "embed": base["embed"].T}
    result = audit(base, {"turned": turned, "lacking": {"bias": base["bias"]}})
    assert [finding.check for finding in result.findings if finding.severity != "note"] == ["keys", "shapes"]


def test_an_expert_that_outweighs_the_others_is_named():
    base = weights()
    experts = {key: tuned(base, seed, by=0.01) for seed, key in enumerate("abc")}
    assert found(audit(base, experts), "warning") == []
    result = audit(base, {**experts, "c": tuned(base, 9, by=0.1)})
    assert found(result, "warning") == [("length", "c")]
    assert "10 times as long" in only(result, "length").message
    far = audit(base, {"a": {name: 3 * tensor for name, tensor in base.items()}})
    assert "moved by more than the length of the base (2.0 times)" in only(far, "length").message


# What cannot be merged


def test_all_errors_of_all_experts_are_found_at_once():
    base = {**weights(), "ids": torch.arange(4)}
    broken = tuned(base, 1)
    broken["bias"] = broken["bias"].clone().fill_(float("nan"))
    experts = {
        "short": {name: tensor for name, tensor in base.items() if name != "bias"},
        "long": {**tuned(base, 2), "extra": torch.ones(2)},
        "wide": {**tuned(base, 3), "embed": torch.zeros(40, 21)},
        "other_kind": {**tuned(base, 4), "ids": torch.rand(4)},
        "broken": broken,
        "fine": tuned(base, 5),
    }
    result = audit(base, experts)
    assert found(result, "error") == [
        ("finite", "broken"),
        ("keys", "long"),
        ("kinds", "other_kind"),
        ("keys", "short"),
        ("shapes", "wide"),
    ]
    with pytest.raises(MergeError) as raised:
        result.raise_for_errors()
    assert str(raised.value).splitlines() == [
        "these checkpoints cannot be merged:",
        "  expert 'broken' holds NaN or Inf in bias",
        "  expert 'long' has what the base lacks: extra",
        "  expert 'other_kind' holds numbers of another kind: ids is torch.float32, not torch.int64",
        "  expert 'short' lacks bias",
        "  expert 'wide' has other shapes: embed is (40, 21), not (40, 20)",
    ]
    alone = audit(base, {"fine": experts["fine"]}).experts["fine"]
    assert result.experts["fine"].norm == pytest.approx(alone.norm, rel=1e-12)  # broken neighbours do not spoil it
    assert math.isfinite(result.experts["broken"].norm)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_not_finite_values_are_found_wherever_they_are(bad, dtype):
    base = {name: tensor.to(dtype) for name, tensor in weights().items()}
    base["large"] = torch.full((100_000,), torch.finfo(dtype).max, dtype=dtype)  # finite, though its sum is not
    one = tuned(base, 1, by=0)
    assert found(audit(base, {"one": one}), "error") == []
    one["embed"][-1, -1] = bad
    result = audit(base, {"one": one, "two": base})
    assert found(result, "error") == [("finite", "one")]
    assert only(result, "finite").tensors == ("embed",)
    result = audit(one, {"two": base})
    assert found(result, "error") == [("finite", None)]
    assert only(result, "finite").message == "the base holds NaN or Inf in embed"


def test_no_expert_is_an_error():
    assert found(audit(weights(), {}), "error") == [("experts", None)]


def test_messages_name_a_few_tensors_and_findings_all():
    base = {f"layer.{index}": torch.ones(2) for index in range(100)}
    finding = only(audit(base, {"empty": {}}), "keys")
    assert len(finding.tensors) == 100
    assert finding.message.endswith("layer.0, layer.1, layer.2, layer.3, layer.4, ... (100 in all)")


def test_an_expert_that_cannot_be_read_leaves_the_others_to_be_audited(tmp_path):
    base = weights()
    for name, state_dict in {"base": base, "fine": tuned(base, 1), "cut": tuned(base, 2)}.items():
        save_file(state_dict, tmp_path / f"{name}.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(cut.read_bytes()[:500])
    (tmp_path / "garbage.pt").write_bytes(b"\x80garbage")
    (tmp_path / "hollow").mkdir()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, tensor in base.items():
                self.register_parameter(name, nn.Parameter(torch.zeros_like(tensor)))

    names = ("fine.safetensors", "cut.safetensors", "garbage.pt", "hollow", "absent.pt")
    pool = ModelPool(Net, str(tmp_path / "base.safetensors"), {name: str(tmp_path / name) for name in names})
    result = audit(*pool.open())
    assert found(result, "error") == [("unreadable", name) for name in sorted(names) if name != "fine.safetensors"]
    assert "absent.pt: no such file or directory" in result.findings[0].message
    assert list(result.experts) == ["fine.safetensors"]
    assert result.experts["fine.safetensors"].changed == 3


def test_an_adapter_is_audited_as_the_weights_it_makes(tmp_path):
    base = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 30)).state_dict()
    down, up = torch.randn(4, 30), torch.randn(20, 4)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["0"], "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    stored = {"base_model.model.0.lora_A.weight": down, "base_model.model.0.lora_B.weight": up}
    save_file(stored, tmp_path / "adapter_model.safetensors")
    result = audit(base, {"lora": read_adapter(tmp_path, base)})
    assert result.of("error") == ()
    assert result.experts["lora"].norm == pytest.approx(float((2 * up.double() @ down.double()).norm()), rel=1e-5)
    assert (result.experts["lora"].changed, result.experts["lora"].tensors) == (1, 4)


CORRUPTIONS = {
    "nothing": lambda model: None,
    "lost": lambda model: model.pop("bias"),
    "added": lambda model: model.update(more=torch.ones(1)),
    "reshaped": lambda model: model.update(embed=model["embed"].T),
    "flattened": lambda model: model.update(scale=model["scale"].view(1)),
    "counted": lambda model: model.update(bias=torch.ones(20, dtype=torch.int64)),
    "imaginary": lambda model: model.update(bias=torch.ones(20, dtype=torch.complex64)),
    "nan": lambda model: model.update(scale=torch.tensor(float("nan"))),
    "inf": lambda model: model.update(bias=torch.full((20,), -float("inf"))),
    "untied": lambda model: model.update(tied=model["tied"] + 1),
    "halved": lambda model: model.update({name: tensor.half() for name, tensor in model.items()}),
    "floating": lambda model: model.update(ids=torch.ones(3)),
    "other_ids": lambda model: model.update(ids=torch.ones(3, dtype=torch.int32)),
}


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.sampled_from(sorted(CORRUPTIONS)), min_size=1, max_size=4),
    st.sampled_from(["nothing", "imaginary", "nan", "inf", "halved"]),
)
def test_errors_are_found_where_a_merge_fails(of_experts, of_base):
    """The merge itself is the oracle: it refuses what the audit calls an error, and nothing else."""
    base = {**weights(), "ids": torch.arange(3)}
    experts = {f"expert_{index}": tuned(base, index) for index in range(len(of_experts))}
    for model in (base, *experts.values()):
        model["tied"] = model["embed"]
    CORRUPTIONS[of_base](base)
    if of_base == "halved":
        base["tied"] = base["embed"]
    for model, corruption in zip(experts.values(), of_experts, strict=True):
        CORRUPTIONS[corruption](model)
    try:
        TaskArithmetic()(base, experts)
    except MergeError:
        merges = False
    else:
        merges = True
    assert (not audit(base, experts).of("error")) is merges


# Tensors with a policy


def test_integer_tensors_are_copied_unless_averaging_is_asked_for():
    base = {**weights(), "ids": torch.arange(4), "mask": torch.ones(3, dtype=torch.bool), "same": torch.arange(2)}
    experts = {"a": tuned(base, 1), "b": {**tuned(base, 2), "ids": torch.arange(4) + 1, "mask": torch.zeros(3) > 0}}
    result = audit(base, experts)
    warning, note = (finding for finding in result.findings if finding.check == "integers")
    assert (warning.severity, warning.tensors) == ("warning", ("ids", "mask"))
    assert warning.message.endswith("which are kept: ids (of b), mask (of b)")
    assert (note.severity, note.tensors) == ("note", ("ids", "mask", "same"))
    averaging = [
        (finding.severity, finding.tensors)
        for finding in audit(base, experts, integers="average").findings
        if finding.check == "integers"
    ]
    assert averaging == [("warning", ("mask",)), ("note", ("mask",)), ("note", ("ids", "same"))]


def batch_normed():
    return nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8, affine=False))


def test_batch_norm_wants_recalibration():
    base = batch_normed().state_dict()
    experts = {"a": tuned(base, 1, by=0.01), "b": tuned(base, 2, by=0.01)}
    experts["a"]["1.num_batches_tracked"] = torch.tensor(500)
    result = audit(base, experts)
    assert found(result, "warning") == [("batch norm", None)]  # a counter of another value is none
    assert only(result, "batch norm").tensors == ("1.running_mean", "1.running_var", "3.running_mean", "3.running_var")
    assert "model=recalibrated" in only(result, "batch norm").message
    assert audit(base, experts, recalibrates=True).of("warning") == ()
    assert only(result, "integers").severity == "note"


def test_recalibration_without_batch_norm_changes_nothing():
    base = {"weight": torch.eye(20)}
    result = audit(base, {"tuned": {"weight": torch.eye(20) * 1.1}}, recalibrates=True)
    assert "no BatchNorm" in only(result, "batch norm").message


def test_scalars_empty_and_tied_tensors_are_noted():
    base = {**weights(), "none": torch.empty(0, 4)}
    base["head"] = base["embed"]
    one = tuned(base, 1)
    one["head"] = one["embed"]
    result = audit(base, {"one": one})
    notes = {finding.check: (finding.severity, finding.tensors) for finding in result.findings}
    assert notes == {
        "scalars": ("note", ("scale",)),
        "empty": ("note", ("none",)),
        "tied": ("note", ("head",)),
    }
    assert result.base.parameters == 40 * 20 + 20 + 1
    assert (result.base.tensors, result.experts["one"].tensors) == (4, 4)
    copied = {**one, "head": one["embed"].clone()}
    assert audit(base, {"one": copied}) == result  # equal values are tied enough
    copied["head"][0, 0] += 1
    assert only(audit(base, {"one": copied}), "untied").message.endswith("head is not embed")


def test_dtypes_are_noted_where_they_are_half_or_differ():
    base = weights()
    half = {name: tensor.half() for name, tensor in base.items()}
    assert "dtypes" not in [finding.check for finding in audit(base, {"a": tuned(base, 1)}).findings]
    assert "all is float16" in only(audit(half, {"a": tuned(half, 1)}), "dtypes").message
    mixed = audit(half, {"a": tuned(half, 1), "b": tuned(base, 2)})
    assert "float16 in the base, expert 'a'; float32 in expert 'b'" in only(mixed, "dtypes").message
    assert mixed.of("error") == ()


# Once per sweep


def test_the_survey_of_the_same_files_is_kept_and_of_others_is_not(tmp_path):
    base = batch_normed().state_dict()
    for name, state_dict in {"base": base, "a": tuned(base, 1, 0.01), "b": tuned(base, 2, 0.01)}.items():
        save_file(state_dict, tmp_path / f"{name}.safetensors")
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in ("a", "b")}
    pool = ModelPool(batch_normed, str(tmp_path / "base.safetensors"), paths)
    first = survey(*pool.open())
    assert survey(*pool.open()) is first
    assert judge(first, recalibrates=True).of("warning") == ()
    fewer = survey(*ModelPool(batch_normed, pool.base, {"a": paths["a"]}).open())
    assert fewer.experts == ("a",)

    save_file({name: tensor.clone() for name, tensor in base.items()}, tmp_path / "b.safetensors", {"written": "again"})
    changed = audit(*pool.open())
    assert ("identical", "b") in found(changed, "warning")
