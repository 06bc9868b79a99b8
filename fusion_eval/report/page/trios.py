"""One task as base, expert and merged model answered it, from the files a run left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fusion_eval.errors import DataError
from fusion_eval.report.runs import Run

__all__ = ["Trio", "read_trios"]

Columns = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Trio:
    """The same samples, answered by base, expert and merged model.

    Args:
        samples: "base", "expert" and "merged" to columns of shape `(n,)`, "score" among them.
        higher_is_better: Of the scores.
    """

    samples: dict[str, Columns]
    higher_is_better: bool = True

    @cached_property
    def scores(self) -> npt.NDArray[np.float64]:
        """Shape `(n, 3)`."""
        return np.stack([columns["score"].astype(np.float64) for columns in self.samples.values()], axis=1)

    @cached_property
    def binary(self) -> bool:
        """Whether every score is right or wrong."""
        return bool(np.isin(self.scores, (0.0, 1.0)).all())


def read_trios(run: Run) -> dict[str, Trio]:
    """Read every task of which base, expert and merged model left scores of the same samples."""
    trios = {}
    for task in run.tasks:
        try:
            roles = {"base": "base", "expert": "experts", "merged": ""}
            samples = {name: run.samples(task, role) for name, role in roles.items()}
        except DataError:  # the leaderboard warns of it, `fusion-eval-report verify` fails
            continue
        complete = all({"index", "score"} <= columns.keys() for columns in samples.values())
        if complete and all(np.array_equal(own["index"], samples["merged"]["index"]) for own in samples.values()):
            trios[task] = Trio(samples, run.document["higher_is_better"].get(task) is not False)
    return trios
