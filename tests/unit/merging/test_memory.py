"""What the jobs of a sweep share is computed once, is the same to the bit, and stays below its limit."""

import pytest
import torch

from fusion_eval.merging import Dare, IsoC, Sce, TaskArithmetic, Ties
from fusion_eval.merging.memory import Memory
from fusion_eval.models.stored import StoredWeights

parametrize = pytest.mark.parametrize
METHODS = [TaskArithmetic, Ties, Dare, IsoC, Sce]


def models(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def model(name):
        tensors = {key: torch.randn(9, 8, generator=generator) for key in ("a", "b", "c")}
        return StoredWeights(tensors, (name, seed))

    return model("base"), {name: model(name) for name in ("one", "two")}


@pytest.fixture
def shared(monkeypatch):
    memory = Memory(limit=10**6)
    monkeypatch.setattr("fusion_eval.merging.task_vector.process_memory", memory)
    return memory


def test_nothing_is_kept_unless_a_sweep_asks_for_it(monkeypatch):
    memory = Memory()
    monkeypatch.setattr("fusion_eval.merging.task_vector.process_memory", memory)
    base, experts = models()
    Ties()(base, experts)
    assert memory.size == 0


@parametrize("method", METHODS)
def test_another_scaling_takes_no_expert_s_tensors_and_gives_the_same_bits(method, shared, monkeypatch):
    base, experts = models()
    expected = [method(scaling=scaling)({**base}, experts) for scaling in (0.1, 0.7)]
    first = method(scaling=0.1)(base, experts)
    assert shared.size > 0
    monkeypatch.setattr(method, "rule", lambda *_: pytest.fail("computed again"))
    again, other = (method(scaling=scaling)(base, experts) for scaling in (0.1, 0.7))
    for merged, right in ((first, expected[0]), (again, expected[0]), (other, expected[1])):
        assert all(torch.equal(merged[name], right[name]) for name in base)


@parametrize(
    "change",
    [
        lambda base, experts: (Ties(density=0.5), base, experts),
        lambda base, experts: (Ties(weights={"one": 2.0}), base, experts),
        lambda base, experts: (Ties(), models(1)[0], experts),
        lambda base, experts: (Ties(), base, experts | {"two": models(1)[1]["two"]}),
        lambda base, experts: (Ties(), base, {"one": experts["one"]}),
        lambda base, experts: (Ties(), base, {"one": experts["one"], "three": experts["two"]}),
    ],
)
def test_anything_else_that_changes_is_computed(change, shared):
    Ties()(*models())
    method, base, experts = change(*models())
    merged = method(base, experts)
    alone = method(dict(base), {name: dict(expert) for name, expert in experts.items()})
    assert all(torch.equal(merged[name], alone[name]) for name in base)


def test_weights_without_an_identity_are_not_kept(shared):
    base, experts = models()
    Ties()(dict(base), experts)
    Ties()(base, experts | {"one": dict(experts["one"])})
    assert shared.size == 0


def test_the_limit_holds_and_old_groups_go_first():
    memory = Memory(limit=100)
    values = torch.ones(5)  # 20 bytes
    for group in "abc":
        for name in "xy":
            memory.recall(group, name, lambda: values)
        assert memory.size <= 100
    made = []
    memory.recall("b", "x", lambda: made.append("b") or values)
    assert made == []
    memory.recall("a", "x", lambda: made.append("a") or values)
    assert made == ["a"]


def test_a_group_that_is_too_large_keeps_what_fits():
    memory = Memory(limit=50)
    made = []
    for _ in range(2):
        for name in "xyz":
            memory.recall("group", name, lambda name=name: made.append(name) or torch.ones(5))
    assert made == ["x", "y", "z", "z"]
    assert memory.size == 40
