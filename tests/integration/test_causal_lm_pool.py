"""`taskpool=causal_lm modelpool=causal_lm` with paths overridden gives what lm-evaluation-harness' own tasks give."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fusion_eval import build, compose
from fusion_eval.merging import Average
from fusion_eval.tasks import MultipleChoice

lm_eval = pytest.importorskip("lm_eval", reason="the oracle is lm-evaluation-harness")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")

WORDS = "the a cat dog house river walks sees finds under over green [title] red [step] big naïve".split()  # noqa: SIM905
ROWS = 9
HARNESS = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
}


def some_rows(task):
    """Rows with the columns that the data set has on the hub."""
    generator = random.Random(task)

    def words(most, least=1):
        return " ".join(generator.choice(WORDS) for _ in range(generator.randint(least, most)))

    for row in range(ROWS):
        choices = {"text": [words(4) for _ in range(4)], "label": list("ABCD" if row % 3 else "1234")}
        right = generator.randrange(4)
        if task.startswith("arc"):
            yield {"id": str(row), "question": words(9), "choices": choices, "answerKey": choices["label"][right]}
        elif task == "openbookqa":
            yield {"id": str(row), "question_stem": words(9), "choices": choices, "answerKey": choices["label"][right]}
        elif task == "hellaswag":
            yield {
                "activity_label": words(2),
                "ctx_a": words(6),
                "ctx_b": words(3) if row % 2 else "",
                "endings": choices["text"],
                "label": str(right),
            }
        elif task == "piqa":
            yield {"goal": words(8), "sol1": words(6), "sol2": words(6), "label": right % 2}
        elif task == "winogrande":
            yield {
                "sentence": f"{words(6)} _ {words(6)}.",
                "option1": words(2),
                "option2": words(2),
                "answer": str(right % 2 + 1),
            }
        else:
            yield {"question": words(9), "answer": f"{words(9)}\n#### {generator.randint(0, 9)}"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    place = tmp_path_factory.mktemp("pool")
    for task in HARNESS:
        rows = list(some_rows(task))
        (place / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        split = "validation" if task in ("hellaswag", "piqa", "winogrande") else "test"
        datasets.DatasetDict({split: datasets.Dataset.from_list(rows)}).save_to_disk(place / task)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    for name in ("base", "math", "coding"):
        config = transformers.LlamaConfig(
            vocab_size=len(fast),
            max_position_embeddings=384,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=0,
            eos_token_id=1,
            initializer_range=0.15,
        )
        transformers.LlamaForCausalLM(config).save_pretrained(place / name)
        fast.save_pretrained(place / name)
    return place


@pytest.fixture(scope="module")
def run(place):
    """The pool and the merged model, from the config that ships."""
    experts = [f"~modelpool.experts.{name}" for name in ("instruction", "multilingual", "safety")]
    cfg = compose(
        [
            "taskpool=causal_lm",
            "modelpool=causal_lm",
            *experts,
            *(f"modelpool.{key}={place / key.split('.')[-1]}" for key in ("base", "experts.math", "experts.coding")),
            *(f"taskpool.tasks.{task}.data.path={place / task}" for task in HARNESS),
            *(f"taskpool.tasks.{task}.data.name=null" for task in HARNESS),
            *(f"taskpool.tasks.{task}.data.expected_size=null" for task in HARNESS),
            "taskpool.tasks.gsm8k.data.transform.max_new_tokens=24",
            "batch_size=4",
            "progress=false",
            "store=off",
        ]
    )
    pool, models, runner = build(cfg.taskpool), build(cfg.modelpool), build(cfg.runner)
    model = models.merge(Average())
    return pool, model, pool.evaluate(model, runner)


@pytest.fixture(scope="module")
def expected(place, run):
    """What the harness' own tasks make of the same model, on the same rows."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    (place / "tasks").mkdir()
    for task, path in HARNESS.items():
        text = {
            "include": str(Path(lm_eval.__file__).parent / "tasks" / path),
            "task": f"local_{task}",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"rows": str(place / f"{task}.jsonl")}},
            "training_split": None,
            "validation_split": None,
            "fewshot_split": None,
            "test_split": "rows",
            "num_fewshot": 0,
        }
        if task == "gsm8k":
            stops = ["Question:", "</s>", "<|im_end|>"]
            text["generation_kwargs"] = {"until": stops, "do_sample": False, "max_gen_toks": 24}
        (place / "tasks" / f"{task}.yaml").write_text(yaml.safe_dump(text))
    manager = TaskManager(include_path=str(place / "tasks"), include_defaults=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "base")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model = HFLM(pretrained=run[1].backbone, tokenizer=tokenizer, batch_size=3)
    return evaluate(model, manager.load([f"local_{task}" for task in HARNESS]), bootstrap_iters=0)


CHOICES = [task for task in HARNESS if task != "gsm8k"]


@pytest.mark.parametrize("task", CHOICES)
def test_choices(task, run, expected):
    found, wanted = run[2].results[task], expected["results"][f"local_{task}"]
    assert isinstance(run[0].tasks[task], MultipleChoice)
    assert found.count == ROWS
    assert found.metrics["accuracy"] == pytest.approx(wanted["acc,none"])
    if "normalised_accuracy" in found.metrics:
        assert found.metrics["normalised_accuracy"] == pytest.approx(wanted["acc_norm,none"])
    samples = sorted(expected["samples"][f"local_{task}"], key=lambda sample: sample["doc_id"])
    right = [sample["filtered_resps"][t][0] for sample, t in zip(samples, found.samples["target"], strict=True)]
    np.testing.assert_allclose(found.samples["log_likelihood"], right, rtol=1e-5)


def test_generation(run, expected):
    found = run[2].results["gsm8k"]
    samples = [s for s in expected["samples"]["local_gsm8k"] if s["filter"] == "flexible-extract"]
    samples.sort(key=lambda sample: sample["doc_id"])
    assert found.samples["completion"].tolist() == [sample["resps"][0][0] for sample in samples]
    assert found.samples["match"].tolist() == [bool(sample["exact_match"]) for sample in samples]
    answers = [sample["filtered_resps"][0] for sample in samples]
    ignored = {ord(letter): None for letter in ",$"}
    cleaned = ["" if answer == "[invalid]" else answer.translate(ignored).removesuffix(".") for answer in answers]
    assert found.samples["answer"].tolist() == cleaned


def test_one_accuracy_a_task_makes_a_mean(run):
    assert {result.primary for result in run[2].results.values()} == {"accuracy"}
    assert all(result.higher_is_better for result in run[2].results.values())


def test_experts_are_known_by_the_heads_of_tasks(run):
    assert [task.model_key(name) for name, task in run[0].tasks.items()] == [*CHOICES, "math"]
