"""Queries, the documents they search, and which of these are relevant: three data sources that belong together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion_eval.data.digest import digest_content
from fusion_eval.data.source import DataSource, Samples
from fusion_eval.errors import ConfigError, DataError, suggest

__all__ = ["RetrievalSamples", "Search"]


@dataclass(frozen=True)
class Search(DataSource):
    """A retrieval data set in three parts, as BEIR (arXiv 2104.08663) and MTEB store them on the hub.

    Args:
        queries: Inputs of the model, with the query's id as target (`target_type: text`).
        documents: Likewise, all that are searched.
        relevance: One judgement a sample: the input is a mapping of columns to ids, the target a number, the gain; what
            has a gain above 0 is relevant.
        query: The column of the query's id in `relevance`.
        document: The column of the document's id in `relevance`.
        split: That of `relevance`, which decides what queries are evaluated; None: the one that it names itself.

    Raises:
        ConfigError: a split is named, and `relevance` is a data source without splits.
    """

    queries: DataSource
    documents: DataSource
    relevance: DataSource
    query: str = "query-id"
    document: str = "corpus-id"
    split: str | None = None

    def __post_init__(self) -> None:
        relevance: Any = self.relevance
        own = getattr(relevance, "split", None)
        if self.split is None:
            object.__setattr__(self, "split", own)
        elif own is None:
            raise ConfigError(f"Search: split={self.split}: relevance, {type(relevance).__name__}, has no splits")
        elif self.split != own:
            object.__setattr__(self, "relevance", replace(relevance, split=self.split))

    def load(self) -> RetrievalSamples:
        """Open the three parts.

        Returns:
            One sample a query that has a relevant document; the others cannot be scored and are left out.

        Raises:
            DataError: a part cannot be read, an id is there twice, or a judgement names one that is not there.
        """
        queries, documents = self.queries.load(), self.documents.load()
        rows, query_ids = _rows(queries, "queries"), _targets(queries)
        judged = self._judgements(rows, _rows(documents, "documents"))
        return RetrievalSamples(queries, documents, sorted(judged), [judged[row] for row in sorted(judged)], query_ids)

    def _judgements(self, queries: Mapping[str, int], documents: Mapping[str, int]) -> dict[int, list[tuple[int, int]]]:
        """Row of the query to rows and gains of its relevant documents."""
        judged: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        samples = self.relevance.load()
        for index in range(len(samples)):
            ids, gain = samples[index]
            if int(gain) <= 0:
                continue
            query, document = (
                _row(ids, column, rows, index) for column, rows in ((self.query, queries), (self.document, documents))
            )
            judged[query].append((document, int(gain)))
        return judged


class RetrievalSamples(Samples):
    """One sample a query: its input, and as target its relevant documents and its id.

    The documents are `(r, 2)`, int64: rows of `documents` and gains, filled up with row -1 and gain 0 to the largest
    number `r` that a query has.

    Args:
        queries: Inputs of the model.
        documents: Inputs of the model, with ids as targets.
        kept: The rows of `queries` that are samples.
        relevant: Rows of `documents` and gains, for each of them.
        ids: Those of `queries`.

    Attributes:
        embeddings: What a model has made of the documents, shape `(documents, d)`; None before.
        cut: Which documents were cut, bool of shape `(documents,)`; None before, or if nobody counts.
    """

    embeddings: Tensor | None = None
    cut: Tensor | None = None

    def __init__(
        self,
        queries: Samples,
        documents: Samples,
        kept: Sequence[int],
        relevant: Sequence[Sequence[tuple[int, int]]],
        ids: Sequence[str],
    ) -> None:
        self.documents = documents
        self._queries = queries
        self._kept = kept
        self._ids = ids
        self._relevant = torch.tensor([[-1, 0]]).repeat(len(kept), max(map(len, relevant), default=0), 1)
        for row, pairs in enumerate(relevant):
            self._relevant[row, : len(pairs)] = torch.tensor(pairs)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> tuple[Any, tuple[Tensor, str]]:
        row = self._kept[index]
        return self._queries[row][0], (self._relevant[index], self._ids[row])

    def collate(self, items: Sequence[tuple[Any, tuple[Tensor, str]]]) -> tuple[Any, tuple[Tensor, list[str]]]:
        """A batch of `n` queries, their documents `(n, r, 2)` and their ids."""
        inputs, _ = self._queries.collate([(value, 0) for value, _ in items])
        return inputs, (torch.stack([pairs for _, (pairs, _) in items]), [name for _, (_, name) in items])

    def lengths(self) -> np.ndarray | None:
        """Those of the queries."""
        lengths = self._queries.lengths()
        return None if lengths is None else lengths[np.array(self._kept)]

    def fingerprint(self) -> str:
        """Digest of queries, documents, and which are relevant."""
        return digest_content([self._queries.fingerprint(), self.documents.fingerprint(), self._kept, self._relevant])


def _targets(samples: Samples) -> list[str]:
    return [str(samples[index][1]) for index in range(len(samples))]


def _rows(samples: Samples, part: str) -> dict[str, int]:
    """Id to row."""
    rows: dict[str, int] = {}
    for row, name in enumerate(_targets(samples)):
        if name in rows:
            raise DataError(f"{part}: the id {name!r} is in row {rows[name]} and in row {row}")
        rows[name] = row
    return rows


def _row(ids: Mapping[str, Any], column: str, rows: Mapping[str, int], index: int) -> int:
    if column not in ids:
        raise DataError(f"relevance: no column {column!r}{suggest(column, ids)}")
    if (name := str(ids[column])) not in rows:
        raise DataError(f"relevance: judgement {index}: {column} {name!r} is not there")
    return rows[name]
