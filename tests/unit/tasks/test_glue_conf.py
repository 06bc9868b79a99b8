"""The GLUE pools of conf/ say what fusion-bench's say, and fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusion_eval import build, compose
from fusion_eval.tasks import LabelGeneration, LabelScoring, NumberGeneration

GOLDEN = json.loads((Path(__file__).parents[2] / "oracles" / "glue" / "golden.json").read_text())
SIZES = {"cola": 1043, "mnli": 9815, "mrpc": 408, "qnli": 5463, "qqp": 40430, "rte": 277, "sst2": 872, "stsb": 1500}
POOLS = {
    "gpt2_glue": "gpt2_glue",
    "bert_glue": "bert_glue",
    "flan_t5_base_glue": "flan_t5_base_glue",
    "flan_t5_base_glue_scoring": "flan_t5_base_glue",
}
"""Task pool to its model pool."""


def tasks_of(pool):
    return build(compose([f"taskpool={pool}", f"modelpool={POOLS[pool]}"]).taskpool).tasks


@pytest.mark.parametrize("pool", POOLS)
def test_every_task_has_its_expert_and_reads_the_right_split(pool):
    models = build(compose([f"modelpool={POOLS[pool]}"]).modelpool)
    tasks = tasks_of(pool)
    assert {task.model_key(name) for name, task in tasks.items()} <= models.experts.keys()
    assert models.heads.keys() in (set(), models.experts.keys())
    for name, task in tasks.items():
        key = task.model_key(name)
        assert task.data.name == key
        split = {"mnli": "validation_matched", "mnli_mismatched": "validation_mismatched"}.get(name, "validation")
        assert task.data.expected_size == {split: 9832 if name == "mnli_mismatched" else SIZES[key]}
        assert set(task.data.input) == {column for column in GOLDEN["rows"][key][0] if column != "label"}
        assert task.data.transform.tokenizer == models.base


@pytest.mark.parametrize("pool", ["flan_t5_base_glue", "flan_t5_base_glue_scoring"])
def test_prompts_and_words_are_fusion_benchs(pool):
    for name, task in tasks_of(pool).items():
        prompt = GOLDEN["prompts"][name]
        assert task.data.transform.template == prompt["input_text"]
        assert task.tokenizer == task.data.transform.tokenizer
        if name == "stsb":
            assert type(task) is NumberGeneration
            assert prompt["target_text"] == f"{{:.{task.decimals}f}}"
        else:
            assert type(task) is (LabelScoring if pool.endswith("scoring") else LabelGeneration)
            assert {str(index): word for index, word in enumerate(task.words)} == prompt["target_text"]
        if type(task) is not LabelScoring:
            assert task.max_new_tokens == GOLDEN["t5"]["max_length"] - 1  # without the start token


def test_gpt2_reads_as_many_tokens_as_in_fusion_bench():
    assert {task.data.transform.max_length for task in tasks_of("gpt2_glue").values()} == {512}


def test_without_a_model_pool_a_data_set_has_a_tokenizer_of_its_own():
    from fusion_eval.config import compose_option

    assert compose_option("dataset/hub", "glue_rte")["transform"]["tokenizer"] == "openai-community/gpt2"
