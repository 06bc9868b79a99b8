from __future__ import annotations

import json
import logging
import os
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion_eval.errors import ConfigError, DataError, TaskError
from fusion_eval.taskpool import BaseTaskPool, LMEvalTaskPool
from fusion_eval.taskpool.lm_eval_harness import find_tasks, load_tasks, quiet, seeded
from fusion_eval.taskpool.lm_eval_results import task_result

POOL = LMEvalTaskPool(["arc_easy", "piqa"], tokenizer="gpt2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": []}, r"give a list of names of lm_eval tasks, such as \[arc_easy\], not \[\]"),
        ({"tasks": "arc_easy"}, "not 'arc_easy'"),
        ({"tasks": [1]}, r"not \[1\]"),
        ({"precision": "64-true"}, "'64-true'; lm_eval runs 32-true, bf16-mixed, 16-mixed"),
        ({"device": "tpu"}, "'tpu'; choose one of auto, cpu"),
        ({"limit": 0}, "expected a number above 0, found 0"),
        ({"num_fewshot": -1}, "expected an integer >= 0, found -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        replace(POOL, **settings)


def test_the_round_trip_through_yaml(tmp_path):
    pool = replace(POOL, num_fewshot=3, experts={"piqa": "physics"}, gen_kwargs={"max_gen_toks": 5})
    pool.to_yaml(tmp_path / "pool.yaml")
    assert BaseTaskPool.from_yaml(tmp_path / "pool.yaml") == pool
    assert pool.expert_of("piqa") == "physics"
    assert pool.expert_of("arc_easy") == "arc_easy"
    assert pool.select(["piqa"]).only == ["piqa"]


def test_only_language_models_of_transformers_are_run():
    pytest.importorskip("lm_eval")
    with pytest.raises(TaskError, match="lm_eval runs language models of transformers, found Linear"):
        POOL.evaluate(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="expected raise or record, found 'ignore'"):
        POOL.evaluate(torch.nn.Linear(2, 2), on_error="ignore")


def test_what_is_missing_is_named(tmp_path):
    pytest.importorskip("lm_eval")
    rows = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/no.jsonl}}}}\ntest_split: test\n"
    text = f"task: mine\noutput_type: multiple_choice\n{rows}doc_to_text: q\ndoc_to_target: t\ndoc_to_choice: [a]\n"
    (tmp_path / "mine.yaml").write_text(text)
    index = find_tasks(("mine",), str(tmp_path))
    assert index.all_tasks == ["mine"]
    with pytest.raises(ConfigError, match="no task, group or tag 'mime'; did you mean 'mine'"):
        load_tasks(index, "mime")
    with pytest.raises(DataError, match="lm_eval cannot load it: FileNotFoundError"):
        load_tasks(index, "mine")
    with pytest.raises(ConfigError, match="nowhere: no such directory"):
        find_tasks(("mine",), str(tmp_path / "nowhere"))


def sample(number, behind="none", **metrics):
    return {
        "doc_id": number,
        "doc": {"q": number},
        "target": 1,
        "arguments": [("Q:", f" {number}")],
        "resps": [[(-1.5, False)]],
        "filtered_resps": [(-1.5, False)],
        "filter": behind,
        "metrics": list(metrics),
        **{key: f"{key} {number}" for key in ("doc_hash", "prompt_hash", "target_hash")},
        **metrics,
    }


def results(values, samples, higher_is_better):
    return {"results": {"t": values}, "samples": {"t": samples}, "higher_is_better": {"t": higher_is_better}}


def test_metrics_errors_and_samples_are_read():
    found = task_result(
        "t",
        results(
            {
                "alias": "t",
                "sample_len": 2,
                "acc,none": 0.5,
                "acc_stderr,none": 0.5,
                "f1,none": 0.4,
                "f1_stderr,none": "N/A",
            },
            [sample(1, acc=1.0, f1=(1, 0)), sample(0, acc=0.0, f1=(1, 1))],
            {"acc": True, "f1": True},
        ),
        {("Q:", " 1")},
        3.0,
        {"weights": "w"},
    )
    assert found.metrics == {"acc": 0.5, "f1": 0.4}
    assert found.standard_errors == {"acc": 0.5}
    assert (found.primary, found.count, found.higher_is_better) == ("acc", 2, True)
    assert found.scores.tolist() == [0.0, 1.0]
    assert found.samples["index"].tolist() == [0, 1]
    assert found.samples["truncated"].tolist() == [False, True]
    assert found.samples["f1"].tolist() == ["[1, 1]", "[1, 0]"]
    assert json.loads(found.samples["requests"][1]) == [["Q:", " 1"]]
    assert set(found.fingerprints) == {"weights", "data"}


def test_each_filter_has_metrics_of_its_own():
    samples = [sample(i, name, exact_match=float(name == "loose")) for name in ("strict", "loose") for i in range(3)]
    values = {"exact_match,strict": 0.0, "exact_match,loose": 1.0}
    found = task_result("t", results(values, samples, {"exact_match": True}), (), 1.0, {})
    assert found.metrics == {"exact_match@strict": 0.0, "exact_match@loose": 1.0}
    assert found.count == 3
    assert found.samples["exact_match@loose"].tolist() == [1.0] * 3


def test_what_is_no_mean_has_no_scores():
    samples = [sample(i, word_perplexity=(-3.0, 2)) for i in range(3)]
    found = task_result("t", results({"word_perplexity,none": 4.5}, samples, {"word_perplexity": False}), (), 1.0, {})
    assert found.scores is None
    assert not found.higher_is_better


@pytest.mark.parametrize(
    ("values", "samples", "message"),
    [
        ({"acc,none": float("nan")}, [sample(0, acc=1.0)], "acc is nan: the model's outputs are not finite"),
        ({"acc,none": 1.0}, [], "no document"),
        ({"alias": "t"}, [sample(0)], "no metric"),
    ],
)
def test_results_that_are_none_are_refused(values, samples, message):
    with pytest.raises(TaskError, match=message):
        task_result("t", results(values, samples, {"acc": True}), (), 1.0, {})


def test_the_harness_is_quiet_for_a_while(caplog):
    with quiet():
        logging.getLogger("lm_eval.api.task").warning("advice")
        assert os.environ["DISABLE_MULTIPROC"] == "1"
    assert caplog.records == []
    assert "DISABLE_MULTIPROC" not in os.environ
    logging.getLogger("lm_eval.api.task").warning("advice")
    assert len(caplog.records) == 1


def test_random_numbers_are_left_as_they_were():
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    draws = []
    for _ in range(2):
        with seeded(5):
            draws.append((random.random(), np.random.random(), float(torch.rand(()))))
    assert draws[0] == draws[1]
    assert state() == before
