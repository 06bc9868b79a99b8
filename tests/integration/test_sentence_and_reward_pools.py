"""The pools of sentence embeddings and of reward models, as configured, with nothing but paths and sizes overridden."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from scipy import stats
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

from fusion_eval import Runner, build, compose
from fusion_eval.taskpool import evaluate_references

WORDS = [f"w{number}" for number in range(50)]
STS = ("sts12", "sts13", "sts14", "sts15", "sts16", "sts_benchmark", "sick_r", "biosses")
SEARCHES = ("scifact", "nfcorpus")
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 54, "initializer_range": 0.4,
}  # fmt: skip


def sentences(count, seed):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 15))) for _ in range(count)]


def save_checkpoints(path, make, names):
    """A tokenizer with the first of them, and models whose weights differ a little, as fine-tuned ones do."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    raw = Tokenizer(models.WordLevel({word: row for row, word in enumerate(specials + WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokens = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token"], specials, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=raw, **tokens).save_pretrained(path / names[0])
    torch.manual_seed(0)
    model = make()
    for name in names:
        model.save_pretrained(path / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


@pytest.fixture(scope="module")
def sentence_pool(tmp_path_factory):
    """The overrides for the pool of sentence embeddings, and where things are."""
    path = tmp_path_factory.mktemp("sentences")
    save_checkpoints(path, lambda: BertModel(BertConfig(**SIZES)), ["base", "similarity", "search"])
    chosen = ["taskpool=sentence_embeddings", "modelpool=sentence_embeddings", f"modelpool.base={path / 'base'}"]
    chosen += [f"modelpool.experts.{name}={path / name}" for name in ("similarity", "search")]
    for seed, name in enumerate(STS):
        rows = {"sentence1": sentences(20, seed), "sentence2": sentences(20, seed + 100)}
        rows["score"] = np.random.default_rng(seed).uniform(0, 5, 20).round(1).tolist()
        DatasetDict({"test": Dataset.from_dict(rows)}).save_to_disk(path / name)
        data = f"taskpool.tasks.{name}.data"
        chosen += [f"{data}.path={path / name}", f"{data}.expected_size=null"]
    for seed, name in enumerate(SEARCHES):
        parts = {
            "queries": ("queries", {"_id": ["q0", "q1", "q2"], "text": sentences(3, seed)}),
            "documents": (
                "corpus",
                {
                    "_id": [f"d{row}" for row in range(15)],
                    "title": sentences(15, seed),
                    "text": sentences(15, seed + 1),
                },
            ),
            "relevance": (
                "test",
                {"query-id": ["q0", "q1", "q1"], "corpus-id": ["d3", "d4", "d5"], "score": [1, 1, 2]},
            ),
        }
        for part, (split, rows) in parts.items():
            DatasetDict({split: Dataset.from_dict(rows)}).save_to_disk(path / name / part)
            data = f"taskpool.tasks.{name}.data.{part}"
            chosen += [f"{data}.path={path / name / part}", f"{data}.expected_size=null"]
    return path, chosen


@torch.no_grad()
def cosines(path, first, second):
    """Of the mean of the tokens of both texts, one pair at a time, by transformers and torch alone."""
    tokenizer, model = (
        PreTrainedTokenizerFast.from_pretrained(path.parent / "base"),
        AutoModel.from_pretrained(path).eval(),
    )

    def embed(text):
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)

    pairs = zip(first, second, strict=True)
    return [float(torch.cosine_similarity(embed(one), embed(other), dim=0)) for one, other in pairs]


def test_sentence_embeddings(sentence_pool):
    path, chosen = sentence_pool
    cfg = compose([*chosen, "model=average", "bootstrap=2", "batch_size=6", "progress=false"])
    pool, models, runner = (build(cfg[name], name) for name in ("taskpool", "modelpool", "runner"))
    model = models.merge(build(cfg.model, "model"))
    report = pool.evaluate(model, runner)
    references = evaluate_references(pool, models, runner, tasks=report)
    assert [report.results[name].primary for name in (*STS, *SEARCHES)] == ["spearman"] * 8 + ["ndcg_at_10"] * 2
    for name in SEARCHES:
        assert list(report.results[name].samples["query"]) == ["q0", "q1"]  # q2 has no judgement

    stored = Dataset.load_from_disk(path / "sts13" / "test")
    expected = cosines(path / "similarity", stored["sentence1"], stored["sentence2"])
    of_expert = references.experts["sts13"]
    assert of_expert.metrics["spearman"] == pytest.approx(
        stats.spearmanr(expected, stored["score"]).statistic, abs=1e-5
    )
    assert of_expert.metrics["pearson"] == pytest.approx(stats.pearsonr(expected, stored["score"]).statistic, abs=1e-5)
    model.backbone.save_pretrained(path / "average")
    expected = cosines(path / "average", stored["sentence1"], stored["sentence2"])
    np.testing.assert_allclose(report.results["sts13"].samples["prediction"], expected, atol=1e-5)


@pytest.fixture(scope="module")
def reward_pool(tmp_path_factory):
    """The overrides for the pool of reward models, and where things are."""
    path = tmp_path_factory.mktemp("rewards")
    config = DebertaV2Config(
        **SIZES, num_labels=1, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8,
        norm_rel_ebd="layer_norm", share_att_key=True, pooler_hidden_size=32,
    )  # fmt: skip
    save_checkpoints(path, lambda: DebertaV2ForSequenceClassification(config), ["base", "large", "large_v2"])
    rows = {"prompt": sentences(17, 1), "chosen": sentences(17, 2), "rejected": sentences(17, 3)}
    rows["subset"] = [f"subset {row % 3}" for row in range(17)]
    DatasetDict({"filtered": Dataset.from_dict(rows)}).save_to_disk(path / "data")
    data = "taskpool.tasks.reward_bench.data"
    return path, rows, [
        "taskpool=reward_model", "modelpool=reward_model", f"modelpool.base={path / 'base'}",
        *(f"modelpool.experts.{name}={path / name}" for name in ("large", "large_v2")),
        f"{data}.path={path / 'data'}", f"{data}.expected_size=null",
    ]  # fmt: skip


@torch.no_grad()
def rewards(path, prompts, answers):
    """One pair of texts at a time, by transformers alone."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent / "base")
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    return [float(model(**tokenizer(*pair, return_tensors="pt")).logits) for pair in zip(prompts, answers, strict=True)]


def test_reward_models(reward_pool):
    path, rows, chosen = reward_pool
    cfg = compose([*chosen, "model=average"])
    pool, models, runner = build(cfg.taskpool, "taskpool"), build(cfg.modelpool, "modelpool"), Runner(batch_size=5)
    report = pool.evaluate(models.merge(build(cfg.model, "model")), runner)
    expert = evaluate_references(pool, models, runner, tasks=report).experts["reward_bench"]
    better, worse = (
        np.array(rewards(path / "large_v2", rows["prompt"], rows[name])) for name in ("chosen", "rejected")
    )
    np.testing.assert_allclose(expert.samples["chosen"], better, atol=1e-5)
    np.testing.assert_allclose(expert.samples["rejected"], worse, atol=1e-5)
    assert expert.metrics["accuracy"] == pytest.approx(np.mean(better > worse))
    assert list(expert.samples["target"]) == rows["subset"]
    assert report["reward_bench"].keys() == {"accuracy", "margin", "loss"}
    assert report["reward_bench"]["margin"] != pytest.approx(expert.metrics["margin"], abs=1e-4)
