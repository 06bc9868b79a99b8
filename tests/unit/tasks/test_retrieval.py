"""Retrieval: rankings against NumPy and transformers, metrics against scikit-learn and torchmetrics."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from torchmetrics.functional.retrieval import retrieval_recall, retrieval_reciprocal_rank
from transformers import BertModel

from fusion_eval.data import HuggingFace, Search, Tokenized
from fusion_eval.engine import Runner
from fusion_eval.errors import ConfigError, DataError, TaskError
from fusion_eval.models import Pooled
from fusion_eval.selection import tasks_on_split
from fusion_eval.tasks import CrossEntropy, DiscountedGainAt, RecallAt, ReciprocalRankAt, Retrieval

METRICS = {
    "recall": partial(RecallAt, k=5),
    "mrr": partial(ReciprocalRankAt, k=5),
    "ndcg": partial(DiscountedGainAt, k=5),
    "recall_of_all": partial(RecallAt, k=1000),
}
QUERIES, DOCUMENTS = 12, 40
GAINS = [(query, (query * 7 + step * 3) % DOCUMENTS, step) for query in range(QUERIES - 1) for step in range(4)]
"""Query, document and gain; of gain 0, which is not relevant, too; the last query has no judgement."""


@pytest.fixture(scope="module")
def texts(sentences):
    return sentences(QUERIES, seed=5), sentences(DOCUMENTS, seed=6)


def source(folder, encoder_path, queries, documents, judgements):
    """The three parts as BEIR has them on the hub."""
    tables = {
        "queries": {"_id": [f"q{row}" for row in range(len(queries))], "text": queries},
        "corpus": {"_id": [f"d{row}" for row in range(len(documents))], "text": documents},
        "qrels": {
            "query-id": [f"q{query}" for query, _, _ in judgements],
            "corpus-id": [f"d{document}" for _, document, _ in judgements],
            "score": [gain for _, _, gain in judgements],
        },
    }
    for name, table in tables.items():
        Dataset.from_dict(table).save_to_disk(folder / name)
    part = partial(HuggingFace, input="text", target="_id", target_type="text", transform=Tokenized(encoder_path))
    relevance = HuggingFace(
        str(folder / "qrels"),
        input=["query-id", "corpus-id"],
        target="score",
        target_type="number",
        transform=partial(dict),
    )
    return Search(part(str(folder / "queries")), part(str(folder / "corpus")), relevance)


@pytest.fixture
def data(tmp_path, encoder_path, texts):
    return source(tmp_path, encoder_path, *texts, GAINS)


@pytest.fixture
def model(encoder_path):
    return BertModel.from_pretrained(encoder_path)


@pytest.mark.parametrize(("batch_size", "document_batch_size"), [(1, 3), (64, 64), (5, 1)])
def test_every_query_is_ranked_as_by_the_oracle(data, model, texts, embed_alone, batch_size, document_batch_size):
    task = Retrieval(data, METRICS, head=Pooled(), document_batch_size=document_batch_size)
    result = Runner(batch_size=batch_size).run("search", task, model)
    queries, documents = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in map(embed_alone, texts))
    cosines = torch.from_numpy(queries @ documents.T)
    expected = {name: [] for name in METRICS}
    for query in range(QUERIES - 1):
        gains = torch.zeros(DOCUMENTS, dtype=torch.int64)
        for _, document, gain in (row for row in GAINS if row[0] == query):
            gains[document] = gain
        expected["recall"].append(float(retrieval_recall(cosines[query], gains > 0, top_k=5)))
        expected["mrr"].append(float(retrieval_reciprocal_rank(cosines[query], gains > 0, top_k=5)))
        expected["ndcg"].append(ndcg_score([gains.numpy()], [cosines[query].numpy()], k=5))
        expected["recall_of_all"].append(1.0)
    assert list(result.samples["query"]) == [f"q{row}" for row in range(QUERIES - 1)]
    np.testing.assert_allclose(result.samples["recall@5"], expected["recall"], atol=1e-6)
    np.testing.assert_allclose(result.samples["reciprocal_rank@5"], expected["mrr"], atol=1e-6)
    np.testing.assert_allclose(result.samples["ndcg@5"], expected["ndcg"], atol=1e-6)
    assert result.metrics == pytest.approx({name: np.mean(values) for name, values in expected.items()}, abs=1e-6)
    errors = {name: np.std(values, ddof=1) / np.sqrt(QUERIES - 1) for name, values in expected.items()}
    assert result.standard_errors == pytest.approx(errors, abs=1e-6)


def test_a_limit_leaves_all_documents_in(data, model):
    task = Retrieval(data, METRICS, head=Pooled())
    whole, part = Runner().run("search", task, model), Runner(limit=4).run("search", task, model)
    np.testing.assert_array_equal(part.samples["first_rank"], whole.samples["first_rank"][part.samples["index"]])


def test_a_query_counts_as_cut_if_a_document_that_is_relevant_to_it_is(tmp_path, encoder_path, model):
    long = " ".join(["w1"] * 9)
    texts = (["w1", long, "w3", "w4"], [long, "w2", "w3", long])
    data = source(tmp_path, encoder_path, *texts, [(0, 1, 1), (1, 1, 1), (2, 0, 1), (2, 2, 1), (3, 2, 1), (3, 3, 0)])
    parts = {
        name: replace(getattr(data, name), transform=Tokenized(encoder_path, max_length=6))
        for name in ("queries", "documents")
    }
    task = Retrieval(replace(data, **parts), METRICS, head=Pooled(), document_batch_size=3)
    samples = Runner(batch_size=3).run("search", task, model).samples
    assert list(samples["truncated"]) == [False, True, True, False]


def test_each_model_embeds_the_documents_anew(data, model):
    task = Retrieval(data, METRICS, head=Pooled())
    samples = task.data.load()
    batch = samples.collate([samples[index] for index in range(len(samples))])
    ranks = []
    for _ in range(2):
        task.build_metrics(samples)
        with torch.no_grad():
            prediction = task.predict(model.eval(), Pooled().load(), batch, samples)
            torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
        ranks.append(prediction.columns["first_rank"])
    assert (ranks[0] != ranks[1]).any()


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=6), st.integers(1, 6))
def test_metrics_are_those_of_the_oracles_in_any_batches(gains, k):
    gains = torch.tensor([row for row in gains if any(row)] or [[0, 1, 0, 2]])
    falling = gains.sort(dim=1, descending=True).values
    scores = torch.arange(4, 0, -1).float()
    expected = {
        RecallAt(k): np.mean([float(retrieval_recall(scores, row > 0, top_k=k)) for row in gains]),
        ReciprocalRankAt(k): np.mean([float(retrieval_reciprocal_rank(scores, row > 0, top_k=k)) for row in gains]),
        DiscountedGainAt(k): ndcg_score(gains.numpy(), scores.expand(len(gains), 4).numpy(), k=k),
    }
    for metric, value in expected.items():
        for rows, best in zip(gains.split(2), falling.split(2), strict=True):
            metric.update(rows[:, :k], best)
        assert float(metric.compute()) == pytest.approx(value, abs=1e-6)  # torchmetrics counts in float32


def test_documents_of_equal_cosine_rank_in_their_order(tmp_path, encoder_path, model):
    data = source(tmp_path, encoder_path, ["w1 w2"], ["w3", "w1 w2", "w1 w2", "w1 w2"], [(0, 2, 1)])
    result = Runner().run("search", Retrieval(data, METRICS, head=Pooled()), model)
    assert list(result.samples["first_rank"]) == [2]


def test_the_fingerprint_knows_every_part(tmp_path, encoder_path):
    parts = (["w1", "w2"], ["w3", "w4"], [(0, 0, 1), (1, 1, 1)])
    changed = [
        (["w1", "w3"], *parts[1:]),
        (parts[0], ["w3", "w5"], parts[2]),
        (*parts[:2], [(0, 0, 1), (1, 1, 2)]),
        (*parts[:2], [(0, 0, 1)]),
    ]
    made = [
        source(tmp_path / str(row), encoder_path, *one).load().fingerprint()
        for row, one in enumerate([parts, parts, *changed])
    ]
    assert made[0] == made[1]
    assert len(set(made)) == 5


def test_judgements_of_what_is_not_there_are_refused(tmp_path, encoder_path):
    data = source(tmp_path, encoder_path, ["w1"], ["w2"], [(0, 0, 1), (0, 7, 1)])
    with pytest.raises(DataError, match=r"relevance: judgement 1: corpus-id 'd7' is not there"):
        data.load()


def test_an_id_that_is_there_twice_is_refused(tmp_path, encoder_path):
    data = source(tmp_path, encoder_path, ["w1"], ["w2"], [(0, 0, 1)])
    Dataset.from_dict({"_id": ["d0", "d0"], "text": ["w1", "w2"]}).save_to_disk(tmp_path / "twice")
    broken = Search(data.queries, HuggingFace(
        str(tmp_path / "twice"), input="text", target="_id", target_type="text", transform=data.documents.transform
    ), data.relevance)  # fmt: skip
    with pytest.raises(DataError, match=r"documents: the id 'd0' is in row 0 and in row 1"):
        broken.load()


def test_the_split_is_that_of_the_judgements(data, tmp_path):
    judged = Dataset.load_from_disk(str(tmp_path / "qrels"))
    DatasetDict(test=judged, val=judged.select(range(12))).save_to_disk(tmp_path / "both")
    both = replace(data, relevance=replace(data.relevance, path=str(tmp_path / "both")))
    tasks = {"search": Retrieval(both, METRICS, head=Pooled())}
    assert both.split == "test"
    assert len(both.load()) == QUERIES - 1
    assert len(tasks_on_split(tasks, "val", other=True)["search"].data.load()) == 3
    with pytest.raises(ConfigError, match="what is chosen on split 'test' must be evaluated on another"):
        tasks_on_split(tasks, "test", other=True)
    with pytest.raises(ConfigError, match="split=val: relevance, Search, has no splits"):
        Search(data.queries, data.documents, replace(data, relevance=object(), split=None), split="val")


def test_another_metric_and_other_data_are_refused(data, model):
    with pytest.raises(TaskError, match=r"metrics\.loss: CrossEntropy is no metric of a ranking; take RecallAt"):
        Runner().run("search", Retrieval(data, {"loss": CrossEntropy}, head=Pooled()), model)
    with pytest.raises(TaskError, match=r"data should be a fusion_eval\.data\.Search"):
        Runner().run("search", Retrieval(data.queries, METRICS, head=Pooled()), model)


def test_a_bad_k_is_refused():
    with pytest.raises(ValueError, match=r"k: expected an integer >= 1, found 0"):
        RecallAt(k=0)
