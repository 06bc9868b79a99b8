"""Tasks of lm-evaluation-harness on a model in memory: what is evaluated again, and what pools are made of."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from fusion_eval import Runner
from fusion_eval.errors import ConfigError
from fusion_eval.merging import Expert
from fusion_eval.models import ModelPool
from fusion_eval.taskpool import LMEvalTaskPool, evaluate_references
from fusion_eval.taskpool.lm_eval_harness import find_tasks, load_tasks, seeded
from fusion_eval.taskpool.lm_eval_key import dependencies

pytest.importorskip("lm_eval", reason="the bridge is to lm-evaluation-harness")
transformers = pytest.importorskip("transformers")

ROWS = [{"question": f"{row} and {row % 3}", "choices": ["one", "two", "three"], "answer": row % 3} for row in range(6)]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}", train: "{data}"}}}}
test_split: test
fewshot_split: train
output_type: multiple_choice
process_docs: !function helpers.shuffled
doc_to_text: "{{{{question}}}}:"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}]
"""
HELPERS = """
import random

def shuffled(documents):
    order = list(range(len(documents)))
    random.shuffle(order)
    return documents.select(order)
"""
GROUP = """
group: pair
task:
  - first
  - {task: second, doc_to_text: "Question: {{question}}"}
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "tasks" / "helpers.py").write_text(HELPERS)
    for name in ("first", "second"):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(TASK.format(name=name, data=tmp_path / "rows.jsonl"))
    (tmp_path / "tasks" / "pair.yaml").write_text(GROUP)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = {piece: row for row, piece in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>")
    fast.save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def language_model(seed=0):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=257, n_positions=96, n_embd=16, n_layer=1, n_head=2, bos_token_id=256, eos_token_id=256
    )
    return transformers.GPT2LMHeadModel(config)


def pool_of(place, *tasks, **settings):
    where = {"tokenizer": str(place / "tokenizer"), "include_path": str(place / "tasks"), "device": "cpu"}
    return LMEvalTaskPool(list(tasks), **where, **settings)


def calls(pool, model, runner):
    """How often the model is called, and the result of the only task."""
    count = []
    handle = register_module_forward_pre_hook(lambda module, args: count.append(1) if module is model else None)
    report = pool.evaluate(model, runner)
    handle.remove()
    return len(count), next(iter(report.results.values()))


def test_a_task_is_not_run_again_on_the_same(place):
    runner, pool = Runner(batch_size=4, store=str(place / "store")), pool_of(place, "first")
    run, first = calls(pool, language_model(), runner)
    assert run > 0
    again, second = calls(pool, language_model(), replace(runner, batch_size=3))
    assert again == 0
    assert second.metrics == first.metrics
    assert second.standard_errors == first.standard_errors
    assert {name: column.tolist() for name, column in second.samples.items()} == {
        name: column.tolist() for name, column in first.samples.items()
    }


def test_a_task_is_known_in_another_process(place):
    """By what a fresh process would compute: other function objects, a task file elsewhere, the same content."""
    keys = []
    for folder in ("tasks", "moved"):
        if folder == "moved":
            (place / "tasks").rename(place / "moved")
        index = find_tasks.__wrapped__(("first",), str(place / folder))
        task = load_tasks(index, "first")["first"]
        with seeded(0):
            keys.append(dependencies(task, language_model().eval(), {}, {}))
    for key in keys:
        assert key["code"].pop(next(name for name in key["code"] if name.endswith("helpers")))
        key["task"] = json.dumps(key["task"])
    assert keys[0] == keys[1]


def change_document(place):
    (place / "rows.jsonl").write_text("".join(json.dumps({**row, "answer": 0}) + "\n" for row in ROWS))


def change_tokenizer(place):
    file = place / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] |= {"a": content["model"]["vocab"]["b"], "b": content["model"]["vocab"]["a"]}
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_fewshot": 1},
        {"limit": 3},
        {"system_instruction": "Answer."},
        {"fewshot_seed": 1},
        {"max_length": 20},
        {"precision": "bf16-mixed"},
    ],
    ids=str,
)
def test_another_setting_is_run(place, settings):
    runner = Runner(batch_size=4, store=str(place / "store"))
    calls(pool_of(place, "first"), language_model(), runner)
    assert calls(pool_of(place, "first", **settings), language_model(), runner)[0] > 0


def test_other_content_is_run(place):
    from fusion_eval.data.tokenizer import identify_tokenizer, load_tokenizer

    runner, pool = Runner(batch_size=4, store=str(place / "store")), pool_of(place, "first")
    calls(pool, language_model(), runner)
    assert calls(pool, language_model(seed=1), runner)[0] > 0
    assert calls(pool, language_model(), replace(runner, seed=1))[0] > 0
    for change in (change_document, change_tokenizer):
        change(place)
        for known in (identify_tokenizer, load_tokenizer):
            known.cache_clear()
        assert calls(pool, language_model(), runner)[0] > 0, change.__name__
        assert calls(pool, language_model(), runner)[0] == 0, change.__name__


def test_a_member_of_a_group_is_what_it_is_in_the_group(place):
    model = language_model()
    whole = pool_of(place, "pair").evaluate(model).results
    assert list(whole) == ["first", "second"]
    alone = pool_of(place, "pair").select(["second"]).evaluate(model).results
    assert list(alone) == ["second"]
    assert alone["second"].samples["requests"].tolist() == whole["second"].samples["requests"].tolist()
    assert "Question" in alone["second"].samples["requests"][0]


def test_a_task_that_shuffles_is_the_same_whatever_runs_before(place):
    model = language_model()
    both = pool_of(place, "first", "second").evaluate(model).results["second"]
    alone = pool_of(place, "first", "second").select(["second"]).evaluate(model).results["second"]
    assert alone.samples["document"].tolist() == both.samples["document"].tolist()
    assert [json.loads(text)["answer"] for text in alone.samples["document"]] != [row["answer"] for row in ROWS]


def test_references_of_a_group_and_of_a_file(place):
    for seed, name in enumerate(("base", "expert")):
        language_model(seed).save_pretrained(place / name)
    architecture = partial(transformers.AutoModelForCausalLM.from_pretrained, str(place / "base"))
    models = ModelPool(architecture, str(place / "base"), {"mine": str(place / "expert")})
    pool = pool_of(place, "pair", experts={"first": "mine", "second": "mine"})
    for chosen, names in ((pool, ["first", "second"]), (replace(pool, tasks=[f"{place}/tasks/first.yaml"]), ["first"])):
        report = chosen.evaluate(models.merge(Expert("mine")))
        references = evaluate_references(chosen, models, tasks=report)
        assert references.failures == {}
        assert list(references.base) == list(references.experts) == names
        for name in names:
            assert references.experts[name].metrics == report.results[name].metrics


def test_several_processes_are_refused(place):
    runner = Runner(partial(pl.Trainer, accelerator="cpu", devices=2, strategy="ddp", logger=False))
    with pytest.raises(ConfigError, match=r"in one process, not in 2: set trainer.devices=1"):
        pool_of(place, "first").evaluate(language_model(), runner)
