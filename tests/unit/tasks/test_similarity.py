"""Semantic textual similarity, against transformers one text at a time and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from scipy import stats
from torch import nn
from transformers import BertModel

from fusion_eval.data import HuggingFace, Tokenized, TokenizedTexts
from fusion_eval.engine import Runner
from fusion_eval.errors import TaskError
from fusion_eval.models import Pooled
from fusion_eval.tasks import PearsonCorrelation, SentenceSimilarity, SpearmanCorrelation

METRICS = {"spearman": SpearmanCorrelation, "pearson": PearsonCorrelation}
COUNT = 25


@pytest.fixture(scope="module")
def pairs(sentences):
    return sentences(COUNT, seed=1), sentences(COUNT, seed=2)


@pytest.fixture(scope="module")
def ratings():
    return np.random.default_rng(3).integers(0, 6, COUNT).astype(float)  # with ties


@pytest.fixture
def data(tmp_path, encoder_path, pairs, ratings):
    Dataset.from_dict({"a": pairs[0], "b": pairs[1], "score": ratings}).save_to_disk(tmp_path)

    def make(padding="right"):
        texts = dict.fromkeys(("first", "second"), Tokenized(encoder_path, padding=padding))
        transform = TokenizedTexts(texts, {"first": ["a"], "second": ["b"]})
        return HuggingFace(str(tmp_path), input=["a", "b"], target="score", target_type="number", transform=transform)

    return make


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_cosines_and_correlations_are_those_of_the_oracle(data, pairs, ratings, embed_alone, encoder_path, batch_size):
    model = BertModel.from_pretrained(encoder_path)
    task = SentenceSimilarity(data(), METRICS, head=Pooled("mean"))
    result = Runner(batch_size=batch_size, bootstrap=5).run("sts", task, model)
    first, second = map(embed_alone, pairs)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(axis=1) / lengths
    np.testing.assert_allclose(result.samples["prediction"], cosines, atol=1e-5)
    np.testing.assert_array_equal(result.samples["target"], ratings)
    assert result.metrics["spearman"] == pytest.approx(stats.spearmanr(cosines, ratings).statistic, abs=1e-5)
    assert result.metrics["pearson"] == pytest.approx(stats.pearsonr(cosines, ratings).statistic, abs=1e-5)
    assert result.standard_errors.keys() == {"spearman", "pearson"}
    assert not result.samples["truncated"].any()


def test_the_order_of_samples_changes_nothing(tmp_path, data, encoder_path):
    model, source = BertModel.from_pretrained(encoder_path), data()
    rows = Dataset.load_from_disk(source.path)
    rows.select(range(COUNT - 1, -1, -1)).save_to_disk(tmp_path / "reversed")
    backwards = HuggingFace(
        str(tmp_path / "reversed"), input=["a", "b"], target="score", target_type="number", transform=source.transform
    )
    there, back = (
        Runner(batch_size=4).run("sts", SentenceSimilarity(one, METRICS, head=Pooled()), model)
        for one in (source, backwards)
    )
    assert there.metrics == pytest.approx(back.metrics, abs=1e-5)
    np.testing.assert_allclose(there.samples["prediction"], back.samples["prediction"][::-1], atol=1e-5)


class Bag(nn.Module):
    """A model that returns features itself."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(64, 8, padding_idx=0)

    def forward(self, input_ids, attention_mask, **kwargs):
        return {"features": self.embedding(input_ids).sum(dim=1) / attention_mask.sum(dim=1, keepdim=True)}


def test_a_model_that_returns_features_needs_no_head(data):
    model = Bag()
    left, right = (Runner().run("sts", SentenceSimilarity(data(side), METRICS), model) for side in ("left", "right"))
    np.testing.assert_allclose(left.samples["prediction"], right.samples["prediction"], atol=1e-6)
    assert -1 <= left.samples["prediction"].min() < left.samples["prediction"].max() <= 1


def test_an_embedding_of_nothing_is_refused(data):
    model = Bag()
    nn.init.zeros_(model.embedding.weight)
    with pytest.raises(TaskError, match=r"prediction is NaN for 25 of 25 samples"):
        Runner().run("sts", SentenceSimilarity(data(), METRICS), model)


def test_tokens_without_a_head_are_refused(data, encoder_path):
    model = BertModel.from_pretrained(encoder_path, add_pooling_layer=False)
    with pytest.raises(TaskError, match=r"expected a tensor or a mapping with features"):
        Runner().run("sts", SentenceSimilarity(data(), METRICS), model)
