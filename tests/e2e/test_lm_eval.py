"""`fusion-eval taskpool=lm_eval`: local tasks of lm-evaluation-harness, on merged models in memory."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from fusion_eval.report.samples import read_samples

lm_eval = pytest.importorskip("lm_eval", reason="the bridge is to lm-evaluation-harness")
transformers = pytest.importorskip("transformers")

WORDS = "the a cat dog house river walks sees finds under over green red big".split()  # noqa: SIM905

CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}", train: "{data}"}}}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
SAY = """
task: local_say
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: [" the"], max_gen_toks: 5}}
filter_list:
  - {{name: first, filter: [{{function: regex, regex_pattern: "[a-z]+"}}, {{function: take_first}}]}}
metric_list: [{{metric: exact_match}}]
num_fewshot: 0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, two experts of it, a tokenizer, and two tasks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    place = tmp_path_factory.mktemp("lm")
    generator = random.Random(0)

    def sentence(most):
        return " ".join(generator.choice(WORDS) for _ in range(generator.randint(1, most)))

    rows = [
        {"question": sentence(9), "choices": [sentence(3) for _ in range(3)], "answer": generator.randrange(3)}
        for _ in range(17)
    ]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "tasks").mkdir()
    for name, text in (("choice", CHOICE), ("say", SAY)):
        (place / "tasks" / f"{name}.yaml").write_text(text.format(data=place / "rows.jsonl"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([sentence(20) for _ in range(50)], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    for seed, name in enumerate(("base", "local_choice", "talker")):
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=len(fast), n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
        model = transformers.GPT2LMHeadModel(config)
        with torch.no_grad():
            generator_of_noise = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(seed * 0.3 * torch.randn(parameter.shape, generator=generator_of_noise))
        model.save_pretrained(place / name)
        fast.save_pretrained(place / name)
    return place


@pytest.fixture
def arguments(place):
    return [
        "taskpool=lm_eval",
        f"taskpool.include_path={place / 'tasks'}",
        "modelpool=causal_lm",
        f"modelpool.base={place / 'base'}",
        "~modelpool.experts.instruction",
        "~modelpool.experts.math",
        "~modelpool.experts.coding",
        "~modelpool.experts.multilingual",
        "~modelpool.experts.safety",
        f"+modelpool.experts.local_choice={place / 'local_choice'}",
        f"+modelpool.experts.talker={place / 'talker'}",
        "model=average",
        "batch_size=4",
        "hydra.run.dir=out",
    ]


def test_the_command(place, arguments, fusion_eval, tmp_path):
    fusion_eval(
        *arguments,
        "taskpool.tasks=[local_choice,local_say]",
        "+taskpool.experts.local_say=talker",
        "taskpool.num_fewshot=2",
        "save_merged=merged",
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["status"] == "complete"
    assert list(report["report"]) == ["local_choice", "local_say"]
    assert list(report["report"]["local_choice"]) == ["acc", "acc_norm"]
    assert list(report["report"]["local_say"]) == ["exact_match@first"]
    assert report["counts"] == {"local_choice": 17, "local_say": 17}
    assert report["references"]["base"].keys() == report["references"]["experts"].keys() == report["report"].keys()

    expected = harness(tmp_path / "merged", place)
    found = report["report"]["local_choice"], report["standard_errors"]["local_choice"]
    for metric in ("acc", "acc_norm"):
        assert found[0][metric] == pytest.approx(expected["results"]["local_choice"][f"{metric},none"])
        assert found[1][metric] == pytest.approx(expected["results"]["local_choice"][f"{metric}_stderr,none"])
    samples = read_samples(tmp_path / "out", "local_choice")
    assert samples["score"].mean() == pytest.approx(found[0]["acc"])
    logged = sorted(expected["samples"]["local_choice"], key=lambda sample: sample["doc_id"])
    assert samples["prompt_hash"].tolist() == [sample["prompt_hash"] for sample in logged]
    assert samples["requests"][0].count("Question: ") == 3 * 3  # two examples and the question, three choices
    found_lls = [[response[0][0] for response in json.loads(text)] for text in samples["responses"]]
    expected_lls = [[response[0][0] for response in sample["resps"]] for sample in logged]
    np.testing.assert_allclose(found_lls, expected_lls, rtol=1e-4)
    lengths = [max(count_tokens(place, *args) for args in json.loads(text)) for text in samples["requests"]]
    assert samples["truncated"].tolist() == [length > 65 for length in lengths]
    assert any(f"local_choice: {sum(samples['truncated'])} of 17 inputs" in line for line in report["warnings"])
    expert = harness(place / "local_choice", place)["results"]["local_choice"]["acc,none"]
    assert report["references"]["experts"]["local_choice"]["acc"] == pytest.approx(expert)
    assert fusion_eval_verifies(fusion_eval, tmp_path)


def harness(model, place):
    """What the harness makes of a model on disk, by its own front door."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(place / "tasks"), include_defaults=False)
    return lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "tokenizer": str(place / "base"), "dtype": "float32"},
        tasks=["local_choice"],
        num_fewshot=2,
        batch_size=3,
        device="cpu",
        task_manager=manager,
        bootstrap_iters=100,
    )


def count_tokens(place, context, continuation):
    return len(transformers.AutoTokenizer.from_pretrained(place / "base").encode(context + continuation))


def fusion_eval_verifies(fusion_eval, tmp_path):
    from fusion_eval.report.verify import verify

    return verify(tmp_path / "out").failed == ()


def test_what_fails_is_recorded_and_the_rest_runs(place, arguments, fusion_eval, tmp_path):
    (place / "tasks" / "broken.yaml").write_text(CHOICE.format(data="nowhere.jsonl").replace("local_choice", "broken"))
    done = fusion_eval(
        *arguments,
        "taskpool.tasks=[broken,local_choice]",
        "on_error=record",
        "limit=5",
        "references=false",
        ok=False,
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["status"] == "partial"
    assert report["counts"] == {"local_choice": 5}
    assert "lm_eval cannot load it" in report["failures"]["broken"]["message"]
    assert "broken" in done.stderr
