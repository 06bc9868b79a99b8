"""Jobs to come of a sweep whose jobs run one after the other in this process: merged early, to be evaluated in groups.

Nothing of a job is decided here: in its turn it merges and evaluates as always, and finds that something is done.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from fusion_eval.config import build
from fusion_eval.reuse import named_files

if TYPE_CHECKING:
    from fusion_eval.models import MergedModel, ModelPool
    from fusion_eval.stamps import Stamp

__all__ = ["begin_job", "expect_jobs", "merged_ahead", "models_to_come"]

_PATIENCE = 2.0
"""Seconds after which no more merges are made early: what a sweep loses at most that is killed."""

_OF_MODEL = re.compile(r"(\+\+|\+|~)?model([@.=]|$)")
"""An override of how the model under test is made."""


class _Merged(NamedTuple):
    described: str
    stamp: Stamp | None
    model: MergedModel | None


@dataclass
class _Sweep:
    compose: Callable[[list[str]], DictConfig]
    jobs: Sequence[Sequence[str]]
    turn: int = 0
    seconds: float = 0.0
    merged: dict[int, _Merged] = field(default_factory=dict)


_sweep: list[_Sweep] = []
"""The one of this process, if there is one."""


def expect_jobs(compose: Callable[[list[str]], DictConfig], jobs: Sequence[Sequence[str]]) -> None:
    """A sweep begins.

    Args:
        compose: Makes the config of a job of its overrides.
        jobs: The overrides of each.
    """
    _sweep[:] = [_Sweep(compose, jobs)]


def begin_job(number: int) -> None:
    """It is the turn of a job of the sweep."""
    for sweep in _sweep:
        sweep.turn, sweep.seconds = number, 0.0
        sweep.merged = {job: merged for job, merged in sweep.merged.items() if job >= number}


def merged_ahead(cfg: DictConfig, models: ModelPool) -> MergedModel | None:
    """The merge of the job whose turn it is, if it was made early and its files are as they were then."""
    for sweep in _sweep:
        found = sweep.merged.pop(sweep.turn, None)
        if found is not None and found.stamp is not None and found[:2] == _identity(cfg, models):
            return found.model
    return None


def models_to_come(cfg: DictConfig, models: ModelPool) -> Iterable[MergedModel]:
    """The merges of the jobs to come that differ from the one whose turn it is in nothing but the merge.

    They are made when they are asked for, and only as long as that is a matter of seconds. Left out are merges that
    fail, as the job itself will say; that differ from task to task; and that take calibration data, and so time.

    Args:
        cfg: Of the job whose turn it is.
        models: Its model pool.
    """
    return _Coming(_sweep[0], cfg, models) if _sweep else ()


@dataclass(frozen=True)
class _Coming:
    sweep: _Sweep
    cfg: DictConfig
    models: ModelPool

    def __iter__(self) -> Iterator[MergedModel]:
        jobs, turn = self.sweep.jobs, self.sweep.turn
        for number in range(turn + 1, len(jobs)):
            if _but_model(jobs[number]) == _but_model(jobs[turn]):
                model = self._merge(number)
                if model is not None:
                    yield model

    def _merge(self, number: int) -> MergedModel | None:
        merged = self.sweep.merged
        if number not in merged:
            if self.sweep.seconds > _PATIENCE:
                return None
            started = time.perf_counter()
            cfg = self.sweep.compose(list(self.sweep.jobs[number]))
            same_pool = cfg.modelpool == self.cfg.modelpool  # an option of `model` may change what is around it
            merged[number] = _merge(cfg, self.models) if same_pool else _Merged("", None, None)
            self.sweep.seconds += time.perf_counter() - started
        return merged[number].model


def _merge(cfg: DictConfig, models: ModelPool) -> _Merged:
    from fusion_eval.merging import PerTaskMethod

    described, stamp = _identity(cfg, models)
    try:
        method = build(cfg.model, "model")
        left_out = isinstance(method, PerTaskMethod) or hasattr(method, "calibration")
        return _Merged(described, stamp, None if left_out else models.merge(method))
    except Exception:
        return _Merged(described, None, None)


def _identity(cfg: DictConfig, models: ModelPool) -> tuple[str, Stamp | None]:
    """What decides a merge: how it is described, and the files; None where those are not known."""
    from fusion_eval.stamps import stamp

    described: Any = [OmegaConf.to_container(cfg[part], resolve=True) for part in ("modelpool", "model")]
    try:
        return json.dumps(described, default=repr), stamp(named_files(models, described))
    except OSError:
        return "", None


def _but_model(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not _OF_MODEL.match(override)]
