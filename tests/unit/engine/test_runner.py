from __future__ import annotations

import multiprocessing
import random
import warnings
import weakref
from dataclasses import dataclass, replace
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from fusion_eval import Classification, MergedModel, Runner, TaskPool
from fusion_eval.data import DataSource, Samples, TensorSamples
from fusion_eval.engine.store import ResultStore
from fusion_eval.errors import ConfigError, DataError, TaskError
from fusion_eval.models import LinearHead
from fusion_eval.tasks import CalibrationError, CrossEntropy, TopKAccuracy

WIDTH, CLASSES = 6, 7
ACCURACY = partial(MulticlassAccuracy, average="micro")
METRICS = {
    "accuracy": ACCURACY,
    "loss": CrossEntropy,
    "top3": partial(TopKAccuracy, k=3),
    "f1": partial(MulticlassF1Score, average="macro"),
    "ece": partial(CalibrationError, n_bins=15),
}
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@dataclass(frozen=True)
class Clouds(DataSource):
    """Random points; `broken` sets one target to what no class has."""

    n: int = 137
    seed: int = 0
    broken: int | None = None

    def load(self):
        generator = torch.Generator().manual_seed(self.seed)
        inputs = torch.randn(self.n, WIDTH, generator=generator)
        targets = torch.randint(CLASSES, (self.n,), generator=generator)
        if self.broken is not None:
            targets[-1] = self.broken
        return TensorSamples(inputs, targets, [f"class {i}" for i in range(CLASSES)])


class OneByOne(Samples):
    """The clouds sample by sample; reading sample `fails_at` raises `error`."""

    def __init__(self, fails_at, error):
        self.tensors = Clouds().load()
        self.class_names = self.tensors.class_names
        self.fails_at, self.error = fails_at, error

    def __len__(self):
        return len(self.tensors)

    def __getitem__(self, index):
        if index == self.fails_at:
            raise self.error
        return {"input": self.tensors.inputs[index]}, int(self.tensors.targets[index])

    def fingerprint(self):
        return "one by one"


@dataclass(frozen=True)
class Lazy(DataSource):
    fails_at: int = -1
    error: type[Exception] = DataError

    def load(self):
        return OneByOne(self.fails_at, self.error("image 70 is damaged"))


class Named(nn.Linear):
    """Takes its input by name; counts how often it is run."""

    calls = 0

    def forward(self, input):
        type(self).calls += 1
        return super().forward(input)


def task(data=None, metrics=METRICS, **fields):
    return Classification(data or Clouds(), metrics, **fields)


def linear(seed=0, outputs=CLASSES, cls=nn.Linear):
    torch.manual_seed(seed)
    return cls(WIDTH, outputs)


def trainer(**arguments):
    return partial(pl.Trainer, **{**QUIET, **arguments})


def expected(model, data=None, indices=slice(None)):
    """Accuracy and loss by scikit-learn of one plain forward."""
    samples = (data or Clouds()).load()
    targets = samples.targets[indices]
    with torch.inference_mode():
        logits = model(samples.inputs[indices]).double()
    return accuracy_score(targets, logits.argmax(1)), log_loss(targets, logits.softmax(1), labels=range(CLASSES))


@pytest.fixture(autouse=True)
def store(monkeypatch):
    """A store of the test's own, and no call counted yet."""
    fresh = ResultStore()
    monkeypatch.setattr("fusion_eval.engine.runner.process_store", fresh)
    monkeypatch.setattr(Named, "calls", 0)
    return fresh


@pytest.fixture
def forget(store):
    return store._results.clear


# Values


@pytest.mark.parametrize("batch_size", [1, 10, 137, 1000])
def test_values_do_not_depend_on_the_batch_size(batch_size):
    model = linear()
    result = Runner(batch_size=batch_size).run("clouds", task(), model)
    accuracy, loss = expected(model)
    assert result.metrics["accuracy"] == accuracy
    assert result.metrics["loss"] == pytest.approx(loss, abs=1e-6)
    assert result.count == 137
    assert np.array_equal(result.samples["index"], np.arange(137))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_on_disk_and_in_memory_give_the_same(num_workers):
    model = linear(cls=Named)
    lazy = Runner(batch_size=30, num_workers=num_workers).run("lazy", task(Lazy()), model)
    direct = Runner(batch_size=30, num_workers=num_workers).run("memory", task(), model)
    assert lazy.metrics == direct.metrics
    assert lazy.standard_errors == direct.standard_errors
    assert all(np.array_equal(lazy.samples[name], column) for name, column in direct.samples.items())


def test_means_have_the_standard_error_of_scipy():
    result = Runner().run("clouds", task(), linear())
    hits = result.samples["prediction"] == result.samples["target"]
    assert np.array_equal(result.scores, hits)
    assert result.standard_errors["accuracy"] == pytest.approx(stats.sem(hits), rel=1e-12)
    assert result.standard_errors["loss"] == pytest.approx(stats.sem(result.samples["loss"].astype(float)), rel=1e-12)
    assert result.standard_errors.keys() == METRICS.keys()


def test_one_sample_has_values_and_no_standard_errors():
    result = Runner().run("one", task(Clouds(n=1)), linear())
    assert result.count == 1
    assert result.standard_errors == {}


def test_a_model_that_cannot_tell_classes_apart_is_a_result_like_any_other():
    model = nn.Linear(WIDTH, CLASSES)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    targets = Clouds().load().targets
    metrics = Runner().run("clouds", task(), model).metrics
    assert metrics["accuracy"] == pytest.approx(float((targets == 0).float().mean()))
    assert metrics["top3"] == pytest.approx(float((targets < 3).float().mean()))
    assert metrics["loss"] == pytest.approx(np.log(CLASSES))


# Limit


def test_a_limit_draws_a_seeded_random_subset_in_ascending_order(forget):
    model, first = linear(), Runner(limit=40).run("clouds", task(), linear())
    index = first.samples["index"]
    assert first.count == len(index) == len(set(index)) == 40
    assert np.all(np.diff(index) > 0)
    assert not np.array_equal(index, np.arange(40))
    accuracy, loss = expected(model, indices=index)
    assert first.metrics["accuracy"] == accuracy
    assert first.metrics["loss"] == pytest.approx(loss, abs=1e-6)
    forget()
    assert np.array_equal(Runner(limit=40, batch_size=7).run("clouds", task(), model).samples["index"], index)
    assert not np.array_equal(Runner(limit=40, seed=1).run("clouds", task(), model).samples["index"], index)


def test_a_limit_beyond_the_data_is_all_of_it():
    assert Runner(limit=10**6).run("clouds", task(), linear()).count == 137


# What is known is not run again


def test_the_same_weights_are_not_run_twice_and_one_changed_tensor_is():
    runner, model = Runner(), linear(cls=Named)
    first = runner.run("clouds", task(), model)
    calls = Named.calls
    assert calls > 0
    assert runner.run("clouds", task(), linear(cls=Named)) is first
    assert Named.calls == calls
    with torch.no_grad():
        model.bias[-1] += 1e-3
    assert runner.run("clouds", task(), model).metrics["loss"] != first.metrics["loss"]
    assert Named.calls > calls


def test_a_model_is_let_go_when_it_was_evaluated_though_the_runner_stays():
    runner, model = Runner(), linear()
    held = weakref.ref(model)
    runner.run("clouds", task(), model)
    del model
    assert held() is None


def test_samples_are_let_go_with_their_result_though_the_runner_stays(forget):
    runner = Runner()
    result = runner.run("clouds", task(), linear())
    held = weakref.ref(result.samples["loss"])
    forget()
    del result
    assert held() is None


def test_a_class_defined_again_under_the_same_name_is_run_again():
    def define(sign):
        class Signed(nn.Linear):
            def forward(self, inputs):
                return sign * super().forward(inputs)

        return Signed

    for sign in (1, -1):
        model = linear(cls=define(sign))
        assert Runner().run("clouds", task(), model).metrics["loss"] == pytest.approx(expected(model)[1], abs=1e-6)


def test_neither_batch_size_nor_the_name_makes_a_result_new():
    model = linear()
    first = Runner().run("clouds", task(), model)
    assert Runner(batch_size=5, num_workers=1).run("renamed", task(), model) is first


@pytest.mark.parametrize(
    ("runner", "tested"),
    [
        (Runner(limit=100), task()),
        (Runner(seed=1), task()),
        (Runner(bootstrap=10), task()),
        (Runner(trainer(precision="bf16-mixed")), task()),
        (Runner(), task(Clouds(seed=1))),
        (Runner(), task(metrics={"accuracy": ACCURACY})),
        (Runner(), task(metrics=METRICS | {"top3": partial(TopKAccuracy, k=2)})),
        (Runner(), task(num_classes=CLASSES)),
    ],
)
def test_whatever_decides_the_numbers_makes_a_result_new(runner, tested):
    model = linear(cls=Named)
    first = Runner().run("clouds", task(), model)
    assert runner.run("clouds", tested, model) is not first


def test_the_primary_metric_is_the_first_of_which_more_is_better():
    model, runner = linear(), Runner()

    def headline(**metrics):
        result = runner.run("clouds", task(metrics=metrics), model)
        return result.primary, result.higher_is_better

    top2 = partial(TopKAccuracy, k=2)
    assert headline(accuracy=ACCURACY, top2=top2) == ("accuracy", True)
    assert headline(top2=top2, accuracy=ACCURACY) == ("top2", True)
    assert headline(loss=CrossEntropy, accuracy=ACCURACY) == ("accuracy", True)
    assert headline(loss=CrossEntropy) == ("loss", False)


def test_metrics_without_a_description_are_evaluated_and_not_remembered():
    first, second = linear(), linear()
    for model in (first, second):
        lambdas = {"accuracy": lambda num_classes: MulticlassAccuracy(num_classes, average="micro")}
        result = Runner().run("clouds", task(metrics=lambdas), model)
        assert result.score == pytest.approx(expected(model)[0])


def test_a_result_on_disk_is_not_evaluated_again_and_is_the_same_to_the_bit(tmp_path, forget):
    runner = Runner(store=str(tmp_path / "store"))
    first = runner.run("clouds", task(), linear(cls=Named))
    calls = Named.calls
    forget()  # as another process would not know
    again = replace(runner, batch_size=9).run("renamed", task(), linear(cls=Named))
    assert Named.calls == calls
    assert again.metrics == first.metrics
    assert again.standard_errors == first.standard_errors
    assert (again.seconds, again.evaluated_at) == (first.seconds, first.evaluated_at)
    for name, column in {**first.samples, "scores": first.scores}.items():
        stored = {**again.samples, "scores": again.scores}[name]
        assert stored.dtype == column.dtype
        assert stored.tobytes() == column.tobytes()
    forget()
    changed = linear(cls=Named)
    changed.bias.data[-1] += 1e-3
    assert runner.run("clouds", task(), changed).metrics["loss"] != first.metrics["loss"]
    assert Named.calls > calls


def test_what_cannot_be_told_to_another_process_is_not_on_disk(tmp_path):
    class Local(nn.Linear):
        pass

    Runner(store=str(tmp_path / "store")).run("clouds", task(), linear(cls=Local))
    assert not (tmp_path / "store").exists()


def test_a_home_that_is_unknown_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"store: ~nobody_here/x: .*store\.path"):
        Runner(store="~nobody_here/x").run("clouds", task(), linear())


def test_another_head_on_the_same_backbone_makes_a_result_new():
    heads = [linear(seed) for seed in (1, 2)]
    first, second = (Runner().run("clouds", task(), MergedModel(nn.Identity(), {"clouds": head})) for head in heads)
    assert first.metrics != second.metrics
    assert first.fingerprints["weights"] == second.fingerprints["weights"]
    assert first.fingerprints["head"] != second.fingerprints["head"]


def test_an_attribute_that_changes_what_a_model_computes_makes_a_result_new():
    class Scaled(nn.Linear):
        factor = 1.0

        def forward(self, inputs):
            return self.factor * super().forward(inputs)

    model = linear(cls=Scaled)
    first = Runner().run("clouds", task(), model)
    model.factor = 3.0
    second = Runner().run("clouds", task(), model)
    assert second.metrics["loss"] == pytest.approx(expected(model)[1], abs=1e-6)
    assert second.metrics["loss"] != pytest.approx(first.metrics["loss"], abs=1e-3)


# Heads


def test_a_model_brings_heads_a_task_names_one_or_has_one_on_disk(tmp_path):
    from safetensors.torch import save_file

    heads = {"clouds": linear(1), "other": linear(2)}
    on_disk = linear(3)
    save_file(on_disk.state_dict(), tmp_path / "head.safetensors")
    model, runner = MergedModel(nn.Identity(), heads), Runner()
    losses = {
        "clouds": runner.run("clouds", task(), model).metrics["loss"],
        "other": runner.run("clouds", task(head="other"), model).metrics["loss"],
        "disk": runner.run("clouds", task(head=LinearHead(str(tmp_path / "head.safetensors"))), model).metrics["loss"],
    }
    plain = {"clouds": heads["clouds"], "other": heads["other"], "disk": on_disk}
    assert losses == pytest.approx({name: expected(head)[1] for name, head in plain.items()}, abs=1e-6)


def test_heads_may_be_a_module_dict_and_an_attribute_of_that_name_that_is_none_is_left_alone():
    class Brings(nn.Identity):
        def __init__(self, heads):
            super().__init__()
            self.heads = heads

    with_heads = Brings(nn.ModuleDict({"clouds": linear(1)}))
    assert Runner().run("clouds", task(), with_heads).metrics["accuracy"] == expected(linear(1))[0]
    attention = linear(1)
    attention.heads = 8
    assert Runner().run("clouds", task(), attention).metrics["accuracy"] == expected(linear(1))[0]


def test_a_head_that_the_model_lacks_is_refused_and_those_it_has_are_named():
    model = MergedModel(nn.Identity(), {"mnist": linear(), "dtd": linear()})
    with pytest.raises(TaskError, match=r"the model has no head 'mnits'.*mnist"):
        Runner().run("clouds", task(head="mnits"), model)


# The user's model stays the user's


@pytest.mark.parametrize("precision", ["32-true", "64-true", "16-true", "bf16-true", "bf16-mixed", "16-mixed"])
def test_every_precision_leaves_modes_dtypes_weights_and_gradients_alone(precision):
    model = nn.Sequential(linear(), nn.Dropout(0.9), nn.Sequential(nn.BatchNorm1d(CLASSES)))
    model[2].eval()
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones(CLASSES, WIDTH)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    head = nn.Linear(CLASSES, CLASSES)
    model.heads = {"clouds": head}
    result = Runner(trainer(precision=precision)).run("clouds", task(), model)
    assert [part.training for part in model.modules()] == [True, True, True, False, False]
    assert head.training
    assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == {
        n: t.dtype for n, t in before.items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert head.weight.dtype == torch.float32
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False, True, True]
    assert torch.equal(model[0].weight.grad, torch.ones(CLASSES, WIDTH))
    evaluated = nn.Sequential(model, head).eval()  # so dropout was off
    tolerance = {"32": 1e-6, "64": 1e-6}.get(precision[:2], 0.02)
    assert result.metrics["loss"] == pytest.approx(expected(evaluated)[1], abs=tolerance)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "bf16-mixed"])
def test_half_precision_is_that_of_the_model_and_not_of_the_metrics(precision):
    data = Clouds(n=3001)  # so many are no bfloat16 number, and no float16 one when multiplied by a loss
    result = Runner(trainer(precision=precision), bootstrap=0).run("clouds", task(data), linear())
    assert result.count == 3001
    assert result.metrics["loss"] == pytest.approx(result.samples["loss"].mean(dtype=np.float64), rel=1e-12)
    exact = Runner(bootstrap=0).run("clouds", task(data), linear())
    assert 0 < abs(result.metrics["loss"] - exact.metrics["loss"]) < 0.01


def test_a_model_is_left_as_it_was_also_when_the_task_fails():
    model = linear().train()
    with pytest.raises(TaskError):
        Runner(trainer(precision="64-true")).run("clouds", task(Clouds(broken=CLASSES)), model)
    assert model.training
    assert model.weight.dtype == torch.float32


def test_a_model_can_be_trained_after_it_was_evaluated():
    model = linear()
    Runner().run("clouds", task(), model)
    model(Clouds().load().inputs).sum().backward()
    assert model.weight.grad is not None


def test_random_numbers_and_threads_are_as_before():
    model = linear()
    torch.manual_seed(11)
    threads = torch.get_num_threads()
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    Runner(batch_size=20, num_workers=2, limit=100).run("clouds", task(), model)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert torch.get_num_threads() == threads


def test_a_model_that_draws_random_numbers_gives_the_same_every_time(forget):
    class Noisy(nn.Linear):
        def forward(self, inputs):
            logits = super().forward(inputs)
            return logits + torch.randn_like(logits)

    losses = []
    for seed in (0, 0, 1):
        forget()
        losses.append(Runner(seed=seed).run("clouds", task(), linear(cls=Noisy)).metrics["loss"])
    assert losses[0] == losses[1] != losses[2]


# Failures


@pytest.mark.parametrize("metrics", [METRICS, {"accuracy": ACCURACY}, {"ece": METRICS["ece"]}])
def test_nan_weights_are_refused_whatever_the_metrics(metrics):
    model = linear()
    model.weight.data[0, 0] = float("nan")
    with pytest.raises(TaskError, match=r"NaN for 137 of 137 samples, first for sample 0: .* not finite"):
        Runner().run("clouds", task(metrics=metrics), model)


def test_a_single_sample_without_a_number_is_named():
    class Divides(nn.Linear):
        def forward(self, inputs):
            marked = inputs == Clouds().load().inputs[99]
            return torch.where(marked.all(dim=1, keepdim=True), float("inf"), super().forward(inputs))

    with pytest.raises(TaskError, match="NaN for 1 of 137 samples, first for sample 99"):
        Runner(batch_size=10).run("clouds", task(metrics={"accuracy": ACCURACY}), linear(cls=Divides))


@pytest.mark.parametrize("metrics", [METRICS, {"loss": CrossEntropy}])
def test_a_class_of_probability_zero_makes_the_loss_infinite_and_is_refused(metrics):
    model = linear()
    model.bias.data[3] = -float("inf")
    with pytest.raises(TaskError, match="loss is inf: the model's outputs are not finite"):
        Runner().run("clouds", task(metrics=metrics), model)


def test_outputs_of_a_wrong_width_are_refused():
    with pytest.raises(TaskError, match=r"\(128, 7\) \(samples, classes\), found \(128, 5\)"):
        Runner().run("clouds", task(), linear(outputs=5))


@pytest.mark.parametrize("broken", [-1, CLASSES])
def test_targets_outside_the_classes_are_refused(broken):
    with pytest.raises(TaskError, match=f"target {broken} is outside the 7 classes"):
        Runner().run("clouds", task(Clouds(broken=broken)), linear())


def test_data_without_samples_is_refused():
    with pytest.raises(TaskError, match=r"Clouds\(n=0.* holds no samples"):
        Runner().run("clouds", task(Clouds(n=0)), linear())


@pytest.mark.parametrize("error", [DataError, OSError])
def test_data_that_fails_in_the_middle_fails_the_task_and_not_the_next(error):
    runner, model = Runner(batch_size=20), linear(cls=Named)
    with pytest.raises(error, match="image 70 is damaged"):
        runner.run("lazy", task(Lazy(fails_at=70, error=error)), model)
    assert runner.run("clouds", task(), model).metrics["accuracy"] == expected(linear())[0]


def test_data_that_fails_in_a_worker_process_fails_the_task():
    pool = TaskPool({"lazy": task(Lazy(fails_at=70)), "clouds": task(Lazy())})
    report = pool.evaluate(linear(cls=Named), Runner(batch_size=20, num_workers=2), on_error="record")
    assert list(report) == ["clouds"]
    assert report.failures["lazy"].error == "DataError"
    assert "image 70 is damaged" in report.failures["lazy"].message
    assert multiprocessing.active_children() == []


def test_data_that_ends_too_early_is_refused():
    with pytest.raises((TaskError, RuntimeError), match=r"137 samples should have been evaluated|StopIteration"):
        Runner(batch_size=20).run("lazy", task(Lazy(fails_at=70, error=StopIteration)), linear(cls=Named))


def test_on_error_record_keeps_the_others_and_raise_keeps_what_was_done():
    tasks = {"first": task(), "damaged": task(Lazy(fails_at=70)), "last": task(Clouds(seed=3))}
    pool, model, told = TaskPool(tasks), linear(cls=Named), []
    report = pool.evaluate(model, Runner(batch_size=20), on_error="record", on_result=lambda *args: told.append(args))
    assert list(report) == ["first", "last"]
    assert report.failures["damaged"].error == "DataError"
    assert report.failures["damaged"].message == "image 70 is damaged"
    assert [name for name, _ in told] == list(tasks)
    told.clear()
    with pytest.raises(DataError, match="image 70 is damaged"):
        pool.evaluate(model, Runner(batch_size=20), on_result=lambda *args: told.append(args))
    assert [name for name, _ in told] == ["first", "damaged"]


def test_a_trainer_that_leaves_samples_out_is_refused():
    with pytest.raises(TaskError, match="137 samples should have been evaluated exactly once"):
        Runner(trainer(limit_test_batches=2), batch_size=20).run("clouds", task(), linear())


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (trainer(precision="banana"), "trainer: Precision 'banana' is invalid"),
        (trainer(accelerator="abacus"), "trainer: .*abacus"),
        (lambda: "a trainer", "trainer: made str, expected a lightning.pytorch.Trainer"),
        (pl.Trainer(**QUIET), "trainer: .*not callable"),
    ],
)
def test_a_trainer_that_cannot_be_made_is_refused(factory, message):
    with pytest.raises(ConfigError, match=message):
        Runner(factory).run("clouds", task(), linear())


@pytest.mark.parametrize("field", ["batch_size", "num_workers", "limit", "seed", "bootstrap"])
@pytest.mark.parametrize("value", [-1, 1.5, "8", True])
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=rf"{field}: expected an integer >= [01], found {value!r}"):
        Runner(**{field: value})


# Reuse


def test_one_runner_serves_many_models_tasks_and_metrics_under_one_name(forget):
    runner = Runner(batch_size=50)
    for seed, data in ((0, Clouds()), (1, Clouds(n=64, seed=2)), (2, Clouds(n=51))):
        for metrics in (METRICS, {"ece": METRICS["ece"]}, {"loss": CrossEntropy, "accuracy": ACCURACY}):
            model = linear(seed)
            result = runner.run("same name", task(data, metrics), model)
            forget()
            alone = Runner(batch_size=50).run("same name", task(data, metrics), model)
            forget()
            assert list(result.metrics) == list(metrics)
            assert result.metrics == alone.metrics
            assert result.standard_errors == alone.standard_errors


def test_the_trainer_is_made_once_and_again_after_a_failure():
    made = []

    def make():
        made.append(pl.Trainer(**QUIET))
        return made[-1]

    runner = Runner(make)
    runner.run("clouds", task(), linear(0))
    runner.run("clouds", task(), linear(1))
    assert len(made) == 1
    with pytest.raises(TaskError):
        runner.run("clouds", task(Clouds(broken=9)), linear(0))
    runner.run("clouds", task(), linear(2))
    assert len(made) == 2


def test_tasks_and_metrics_may_be_called_anything():
    names = {"evaluated": ACCURACY, "keys": CrossEntropy, "type": ACCURACY, "a b": ACCURACY}
    report = TaskPool({name: task(metrics=names) for name in ("a.b", "a/b", "forward", "ä ö")}).evaluate(linear())
    accuracy, loss = expected(linear())
    for metrics in report.values():
        assert list(metrics) == list(names)
        assert metrics["keys"] == pytest.approx(loss, abs=1e-6)
        assert metrics["evaluated"] == metrics["type"] == metrics["a b"] == accuracy


def test_it_runs_without_a_word(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Runner(num_workers=0).run("clouds", task(), linear())
    assert capsys.readouterr() == ("", "")


def test_a_runner_is_a_value():
    assert Runner(limit=3) == replace(Runner(), limit=3) != Runner()
