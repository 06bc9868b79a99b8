"""Every number equals one that a plain loop over single, unpadded forwards gives."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from fusion_eval import Runner
from fusion_eval.data import ChoicePrompts, CompletionPrompt, DataCache, DataSource, HuggingFace, TextWindows
from fusion_eval.data.causal_tokenizer import CausalTokenizer
from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.models import MergedModel
from fusion_eval.tasks import (
    BitsPerByte,
    ChoiceAccuracy,
    Generation,
    GenerationMatch,
    LanguageModelling,
    MultipleChoice,
    Perplexity,
)

CACHED = ("GPT2", "Llama", "Mistral", "Gemma2", "Bloom")
CACHELESS = ("Mamba", "Rwkv")


def rows(place, transform, target="answer", target_type="class"):
    columns = ["question", "choices"]
    return HuggingFace(str(place / "rows"), input=columns, target=target, target_type=target_type, transform=transform)


@pytest.fixture
def choices(place):
    prompts = ChoicePrompts(str(place / "tokenizer"), "Q: {{ question }}\nA:", "choices")
    by = {name: partial(ChoiceAccuracy, by=name) for name in ("sum", "characters", "bytes")}
    return MultipleChoice(rows(place, prompts), by)


@pytest.fixture
def texts(place):
    windows = TextWindows(str(place / "tokenizer"), str(place / "rows"), max_length=16, stride=5)
    metrics = {"token": Perplexity, "word": partial(Perplexity, per="word"), "bits": BitsPerByte}
    return LanguageModelling(windows, metrics)


@pytest.fixture
def completions(place):
    prompt = CompletionPrompt(str(place / "tokenizer"), "{{ question }}", max_new_tokens=7)
    return Generation(rows(place, prompt, "says", "text"), {"match": GenerationMatch}, extract="[a-z]+")


def run(task, model, batch_size=5, **settings):
    return Runner(batch_size=batch_size, bootstrap=0, **settings).run("task", task, MergedModel(model, {}))


@torch.no_grad()
def log_probability(model, read, scored):
    logits = model(torch.tensor([[*read, *scored]])[:, :-1]).logits[0, len(read) - 1 :]
    return float(logits.double().log_softmax(-1)[range(len(scored)), scored].sum())


@pytest.mark.parametrize(
    ("name", "share"), [*((name, True) for name in CACHED), ("GPT2", False), *((name, False) for name in CACHELESS)]
)
def test_multiple_choice(name, share, choices, causal_model):
    model = causal_model(name)
    found = run(replace(choices, share_context=share), model)
    samples = choices.data.load()
    hits = {"sum": [], "characters": [], "bytes": []}
    for index in range(len(samples)):
        question, target = samples[index]
        scores = np.array([log_probability(model, *pair) for pair in question["pairs"]])
        characters, size = question["sizes"].numpy().T
        for way, divisor in (("sum", 1), ("characters", characters), ("bytes", size)):
            hits[way].append(np.argmax(scores / divisor) == target)
        np.testing.assert_allclose(found.samples["log_likelihood"][index], scores[target], rtol=1e-5)
        loss = np.log(np.exp(scores - scores[target]).sum())
        np.testing.assert_allclose(found.samples["loss"][index], loss, rtol=1e-4, atol=1e-5)
    assert found.metrics == pytest.approx({way: np.mean(hit) for way, hit in hits.items()})
    assert found.samples["truncated"].any()
    assert not found.samples["truncated"].all()
    assert found.scores.tolist() == hits["sum"]


def tokens_read(task, model, index):
    """How many tokens go through the model, padding included, for one question."""
    read = []
    hook = model.register_forward_pre_hook(
        lambda module, args, inputs: read.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    Runner(bootstrap=0).run("task", task, MergedModel(model, {}), indices=np.array([index]))
    hook.remove()
    return sum(read)


def test_the_context_of_several_choices_is_read_once(choices, causal_model):
    model, samples = causal_model("Llama"), choices.data.load()
    fitting = [index for index in range(len(samples)) if not samples[index][0]["truncated"]]
    assert len(fitting) > 2
    for index in fitting:
        pairs = samples[index][0]["pairs"]
        context, longest = len(pairs[0][0]), max(len(scored) for _, scored in pairs)
        assert all(read == pairs[0][0] for read, _ in pairs)
        assert tokens_read(choices, model, index) == context - 1 + len(pairs) * longest
        anew = replace(choices, share_context=False)
        assert tokens_read(anew, model, index) == len(pairs) * (context - 1 + longest)


@pytest.mark.parametrize("name", CACHELESS)
def test_a_model_without_a_cache_says_so(name, choices, causal_model):
    with pytest.raises(TaskError, match="set share_context=false"):
        run(choices, causal_model(name))


@pytest.mark.parametrize("name", ["Llama", "Rwkv"])
def test_perplexity(name, texts, place, causal_model):
    model = causal_model(name)
    found = run(texts, model)
    tokenizer = CausalTokenizer(str(place / "tokenizer"), 16)
    nats, counts = 0.0, np.zeros(3)
    source = HuggingFace(str(place / "rows"), input="text", target="says", target_type="text", transform=str).load()
    for index in range(len(source)):
        text = source[index][0]
        tokens = [tokenizer.prefix, *tokenizer.encode(text)]
        first = 1
        while first < len(tokens):
            end = min(first + (16 if first == 1 else 5), len(tokens))
            start = max(0, end - 17)
            nats -= log_probability(model, tokens[start:first], tokens[first:end])
            first = end
        counts += len(tokens) - 1, len(text.encode()), len(text.split())
    expected = {"token": math.exp(nats / counts[0]), "word": math.exp(nats / counts[2])}
    assert found.metrics == pytest.approx({**expected, "bits": nats / math.log(2) / counts[1]}, rel=1e-5)
    assert found.samples["tokens"].sum() == counts[0]


@pytest.mark.parametrize("name", ["GPT2", "Mamba"])
def test_generation_is_that_of_transformers(name, completions, place, causal_model):
    model = causal_model(name)
    found = run(completions, model)
    tokenizer = CausalTokenizer(str(place / "tokenizer"))
    samples = completions.data.load()
    for index in range(len(samples)):
        prompt, says = samples[index]
        ids = prompt["input_ids"][None]
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=7, do_sample=False)
        new = out[0, ids.shape[1] :].tolist()
        assert found.samples["completion"][index] == tokenizer.decode(new)
        assert found.samples["tokens"][index] == len(new)
        assert found.samples["expected"][index] == says
    assert found.samples["truncated"].any()


@pytest.mark.parametrize("batch_size", [1, 8])
def test_batches_decide_nothing(batch_size, choices, texts, completions, causal_model):
    model = causal_model("Llama")
    for task in (choices, texts, completions):
        expected, found = run(task, model), run(task, model, batch_size)
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-5)
        for name, column in expected.samples.items():
            if column.dtype.kind == "f":
                np.testing.assert_allclose(found.samples[name], column, rtol=1e-5)
            else:
                assert found.samples[name].tolist() == column.tolist()


@pytest.mark.parametrize("mode", ["disk", "memory"])
def test_prepared_samples_are_the_same(mode, choices, texts, completions, causal_model, tmp_path):
    model = causal_model("GPT2")
    for task in (choices, texts, completions):
        expected = run(task, model, seed=1)
        for seed in (2, 3):  # another seed, so that no result is remembered; the second run reads what the first made
            found = run(task, model, seed=seed, cache=DataCache(mode, str(tmp_path)))
            assert found.metrics == expected.metrics
            assert found.fingerprints == expected.fingerprints


def test_a_limit_takes_a_part_of_the_windows(texts, causal_model):
    assert run(texts, causal_model("Llama"), limit=7).count == 7


def test_windows_of_one_text_are_a_group(texts, causal_model):
    found = run(texts, causal_model("Llama"))
    assert sorted(set(found.samples["group"].tolist())) == list(range(6))


def test_less_perplexity_is_better(texts, choices, completions, causal_model):
    model = causal_model("Llama")
    assert [run(task, model).higher_is_better for task in (texts, choices, completions)] == [False, True, True]


def test_a_stop_text_ends_a_completion(completions, causal_model):
    model = causal_model("Llama")
    free = run(completions, model).samples["completion"]
    mark = next(text for text in free if len(text) > 4)[2:4]
    found = run(replace(completions, stop=[mark]), model).samples["completion"]
    assert found.tolist() == [text.partition(mark)[0] for text in free]


@pytest.mark.parametrize(
    ("settings", "completion", "answer"),
    [
        ({"extract": None}, " So 7. ", "So 7."),
        ({"extract": r"-?\d+"}, "3 + 4 = 7", "3"),
        ({"extract": r"-?\d+", "take": "last"}, "3 + 4 = 7", "7"),
        (
            {"extract": r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "take": "last", "remove": [",", r"\$", r"\.$"]},
            "$1,200.",
            "1200",
        ),
        ({"extract": r"answer is (\w+)", "ignore_case": True}, "the answer is YES", "yes"),
        ({"extract": r"\d"}, "none", None),
    ],
)
def test_what_an_answer_is(settings, completion, answer, completions):
    assert replace(completions, **settings).answer_in(completion) == answer


def test_answer_and_target_are_cleaned_alike(completions, causal_model):
    everything = replace(completions, extract=None, remove=["(?s).*"])
    assert run(everything, causal_model("Llama")).metrics["match"] == 1
    assert run(replace(completions, extract="nothing of the sort"), causal_model("Llama")).metrics["match"] == 0


def test_malformed_settings_are_refused_when_written(completions):
    with pytest.raises(ConfigError, match="'\\(' is no regular expression"):
        replace(completions, extract="(")
    with pytest.raises(ConfigError, match="take='some'; choose one of first, last"):
        replace(completions, take="some")
    with pytest.raises(ConfigError, match="per='letter'; choose one of token, byte, word"):
        Perplexity(per="letter")
    with pytest.raises(ConfigError, match="by='words'; choose one of sum, characters, bytes"):
        ChoiceAccuracy(by="words")


def test_other_data_is_refused(choices, texts, completions, causal_model):
    model = causal_model("Llama")
    with pytest.raises(TaskError, match=r"need the transform fusion_eval\.data\.ChoicePrompts"):
        run(replace(choices, data=completions.data), model)
    with pytest.raises(TaskError, match=r"need the transform fusion_eval\.data\.CompletionPrompt"):
        run(replace(completions, data=choices.data), model)
    with pytest.raises(TaskError, match=r"is a fusion_eval\.data\.TextWindows"):
        run(replace(texts, data=choices.data), model)


class Constant(torch.nn.Module):
    """Gives the same logits wherever it is."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, input_ids):
        return self.logits.expand(*input_ids.shape, -1)


def test_a_model_that_returns_plain_logits_will_do(choices, texts, completions):
    model = Constant(torch.zeros(290))
    assert run(texts, model).metrics["token"] == pytest.approx(290, rel=1e-6)
    assert run(replace(choices, share_context=False), model).count == 6
    assert set(run(completions, model).samples["tokens"]) == {7}


def test_numbers_that_are_none_are_refused(choices, texts):
    broken = Constant(torch.full((290,), math.nan))
    for task in (texts, replace(choices, share_context=False)):
        with pytest.raises(TaskError, match=r"NaN|not finite|is nan"):
            run(task, broken)


def test_a_classifier_is_no_language_model(texts):
    class Classifier(torch.nn.Module):
        def forward(self, input_ids):
            return torch.zeros(len(input_ids), 3)

    with pytest.raises(TaskError, match=r"expected logits of shape \(samples, tokens, vocabulary\)"):
        run(texts, Classifier())


def test_a_head_is_refused(texts, causal_model):
    model = MergedModel(causal_model("Llama"), {"task": torch.nn.Linear(2, 2)})
    with pytest.raises(TaskError, match="the task takes no head"):
        Runner(bootstrap=0).run("task", texts, model)


def test_the_error_of_a_perplexity_is_a_bootstrap_over_samples(texts, causal_model):
    model = causal_model("Llama")
    errors = Runner(batch_size=5, bootstrap=50).run("task", texts, MergedModel(model, {})).standard_errors
    assert set(errors) == {"token", "word", "bits"}
    assert all(error > 0 for error in errors.values())


def test_the_data_of_a_task_are_values(choices, texts, completions):
    for task in (choices, texts, completions):
        assert isinstance(task.data, DataSource)
        assert replace(task) == task
