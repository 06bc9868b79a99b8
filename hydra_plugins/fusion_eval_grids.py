"""The sweeper of `hydra/sweeper=grids`: a union of grids. Hydra takes sweepers from this package only, and finds them.

It is imported by every Hydra application where fusion-eval is installed, so it imports nothing but Hydra.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["GridsSweeper"]


class GridsSweeper(BasicSweeper):
    """Sweeps several grids one after the other: methods differ in which hyper-parameters they have.

    Each grid is a Cartesian product, as Hydra's basic sweeper makes of a whole command line. What the command line
    says is part of every grid, and stronger. A job that two grids have in common runs once.

    A key that starts with `~` takes away what is below it: its values are names, or lists of names that go together.
    `{"~modelpool.experts": [mnist, [mnist, scripts]]}` are two jobs, one without one expert, one without two.

    Args:
        grids: A mapping each, from what stands left of the `=` of an override to what stands right of it, or to a list
            of values.
        max_batch_size: At most so many jobs are launched together; None: all.
        params: Overrides that all grids share, in the form of a grid.

    Raises:
        ConfigCompositionException: A grid is no mapping.
    """

    def __init__(
        self,
        grids: Sequence[dict[str, Any]] | ListConfig,
        max_batch_size: int | None = None,
        params: dict[str, str] | DictConfig | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)  # type: ignore[arg-type]
        self._grids: list[dict[str, Any]] = []
        for grid in grids:
            plain = OmegaConf.to_container(grid, resolve=True) if isinstance(grid, DictConfig) else grid
            if not isinstance(plain, dict):
                raise ConfigCompositionException(
                    f"hydra.sweeper.grids: expected mappings such as {{model: ties}}, found {grid!r}"
                )
            self._grids.append({str(key): values for key, values in plain.items()})

    def split_arguments(  # type: ignore[override]  # a static method there, which needs no parser
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Overrides of every job, in batches."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        jobs: dict[tuple[str, ...], None] = {}
        for grid in self._grids or [{}]:
            own = parser.parse_overrides([f"{key}={_text(values)}" for key, values in grid.items() if key[0] != "~"])
            for batch in BasicSweeper.split_arguments([*own, *overrides], None):
                for job, removed in itertools.product(batch, list(_removals(grid))):
                    jobs.setdefault((*job, *removed))
        return list(self.split_overrides_to_chunks([list(job) for job in jobs], max_batch_size))


def _removals(grid: dict[str, Any]) -> Iterator[list[str]]:
    """What each job of a grid takes away, as overrides: one empty list where the grid takes nothing away."""
    choices = [
        [[f"{key}.{name}" for name in _listed(value)] for value in _listed(values)]
        for key, values in grid.items()
        if key.startswith("~")
    ]
    return (list(itertools.chain.from_iterable(choice)) for choice in itertools.product(*choices))


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _text(values: Any) -> str:
    """As on the command line: a list is a sweep."""
    if isinstance(values, list):
        return ",".join(map(_text, values))
    return "null" if values is None else str(values)
