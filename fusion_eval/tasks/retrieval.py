"""Sentence embeddings: whether a search finds the documents that are relevant to a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from fusion_eval.data import Samples
from fusion_eval.data.inputs import columns_of
from fusion_eval.data.retrieval import RetrievalSamples
from fusion_eval.errors import ConfigError, TaskError
from fusion_eval.tasks.ranking import RankingMetric
from fusion_eval.tasks.task import Prediction, Task
from fusion_eval.tasks.texts import embed

__all__ = ["Retrieval"]


@dataclass(frozen=True)
class Retrieval(Task):
    """Search by embeddings: all documents ranked by their cosine to the query; a sample is a query.

    The model under test embeds queries and documents alike; a head such as `Pooled` makes embeddings of its tokens.
    Every query searches all documents, also under `limit`. Documents of equal cosine rank in the order of the data.
    Metrics are means over queries and get gains `(n, k)` by rank, and the gains of all relevant documents `(n, r)`.
    Each sample leaves the columns `query` (its id), `first_rank` (of the first relevant document, from 1), `truncated`
    (the query or a document that is relevant to it was cut), and one of each metric's name with `k`, such as
    `recall@10`.

    Args:
        data: A `fusion_eval.data.Search`.
        metrics: See `Task`; `RecallAt`, `ReciprocalRankAt`, `DiscountedGainAt`.
        head: See `Task`.
        document_batch_size: How many documents are embedded at a time.

    Raises:
        ConfigError: `document_batch_size` is not positive.
    """

    document_batch_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.document_batch_size < 1:
            raise ConfigError(f"document_batch_size={self.document_batch_size}; it should be at least 1")

    def build_metrics(self, samples: Samples) -> dict[str, Metric]:
        """Fresh metrics; what a model before this one made of the documents is forgotten."""
        if not isinstance(samples, RetrievalSamples):
            raise TaskError("data should be a fusion_eval.data.Search, with queries, documents and relevance")
        samples.embeddings = None
        return dict(self._metrics())

    def check(self, batch: Any, samples: Samples) -> None:
        """The source has checked that there are relevant documents."""

    def predict(self, model: nn.Module, head: nn.Module | None, batch: Any, samples: Samples) -> Prediction:
        """Gains in the order of the ranking, and what is kept of each query."""
        assert isinstance(samples, RetrievalSamples)
        inputs, (relevant, ids) = batch
        queries = embed(model, head, inputs)
        if samples.embeddings is None:
            samples.embeddings, samples.cut = self._embedded(model, head, samples.documents, queries.device)
        cosines = queries @ samples.embeddings.T
        ranked = cosines.sort(dim=1, descending=True, stable=True).indices
        gains = _gains(relevant, len(samples.documents)).gather(1, ranked)
        all_gains = relevant[..., 1].sort(dim=1, descending=True).values
        metrics = self._metrics()
        columns: dict[str, Tensor | list[str]] = {
            "query": ids,
            "first_rank": (gains > 0).int().argmax(dim=1) + 1,
            **_truncated(columns_of(inputs).get("truncated"), samples.cut, relevant[..., 0]),
            **{metric.column: metric.values(gains, all_gains) for metric in metrics.values()},
        }
        return Prediction(gains[:, : max(metric.k for metric in metrics.values())], all_gains, columns)

    def sample_values(self, metric: Metric, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The metric of each query."""
        return columns[metric.column] if isinstance(metric, RankingMetric) else None

    def _metrics(self) -> dict[str, RankingMetric]:
        metrics = {name: factory() for name, factory in self.metrics.items()}
        for name, metric in metrics.items():
            if not isinstance(metric, RankingMetric):
                raise TaskError(
                    f"metrics.{name}: {type(metric).__name__} is no metric of a ranking; take RecallAt, "
                    "ReciprocalRankAt or DiscountedGainAt of fusion_eval.tasks"
                )
        return metrics  # type: ignore[return-value]

    def _embedded(
        self, model: nn.Module, head: nn.Module | None, documents: Samples, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings of all documents, shape `(documents, d)`, and which were cut; a batch has those of like length."""
        lengths = documents.lengths()
        order = np.arange(len(documents)) if lengths is None else np.argsort(-lengths, kind="stable")
        parts, cut = [], []
        for start in range(0, len(order), self.document_batch_size):
            rows = order[start : start + self.document_batch_size]
            inputs, _ = documents.collate([documents[int(row)] for row in rows])
            parts.append(embed(model, head, _moved(inputs, device)))
            cut += [flags.to(device) for name, flags in columns_of(inputs).items() if name == "truncated"]
        place = torch.from_numpy(np.argsort(order)).to(device)
        return torch.cat(parts)[place], torch.cat(cut)[place] if cut else None


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping) and not hasattr(inputs, "to"):
        return {name: value.to(device) for name, value in inputs.items()}
    return inputs.to(device)


def _truncated(queries: Tensor | None, documents: Tensor | None, relevant: Tensor) -> dict[str, Tensor]:
    """The column of that name, from flags of the queries, of all documents, and the relevant rows of these `(n, r)`."""
    flags = [] if queries is None else [queries]
    if documents is not None:
        flags.append((documents[relevant.clamp(min=0)] & (relevant >= 0)).any(dim=1))
    return {"truncated": torch.stack(flags).any(dim=0)} if flags else {}


def _gains(relevant: Tensor, documents: int) -> Tensor:
    """The gain of every document, shape `(n, documents)`, from `(n, r, 2)`; row -1 stands for none."""
    rows, gains = relevant.unbind(dim=-1)
    dense = torch.zeros(len(relevant), documents + 1, dtype=gains.dtype, device=gains.device)
    return dense.scatter(1, rows.where(rows >= 0, documents), gains)[:, :documents]
