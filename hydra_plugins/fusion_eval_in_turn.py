"""The launcher of `hydra/launcher=in_turn`, the default. Hydra takes launchers from this package only, and finds them.

It is imported by every Hydra application where fusion-eval is installed, so it imports nothing but Hydra.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

__all__ = ["InTurnLauncher"]

_log = logging.getLogger(__name__)


class InTurnLauncher(BasicLauncher):
    """Runs jobs one after the other in this process, as Hydra's basic launcher does.

    A job whose directory holds what it would leave there is not begun: what Hydra does for every job, logging, copies
    and files of the config, takes longer than to see that.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs.

        Args:
            job_overrides: Of each job.
            initial_job_idx: Number of the first.
        """
        assert self.config is not None
        setup_globals()
        self._log_as_hydra()
        _log.info(f"Launching {len(job_overrides)} jobs locally")
        return [self._launch(list(job), number) for number, job in enumerate(job_overrides, start=initial_job_idx)]

    def _launch(self, overrides: list[str], number: int) -> JobReturn:
        assert self.hydra_context is not None
        assert self.task_function is not None
        _log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
        config = self._compose(overrides, number)
        if _may_be_done(config) and (done := _done(self._compose(overrides, number))):
            return done
        done = run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        self._log_as_hydra()
        return done

    def _compose(self, overrides: list[str], number: int) -> DictConfig:
        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _log_as_hydra(self) -> None:
        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)


def _directory(config: DictConfig) -> Path:
    return Path(config.hydra.sweep.dir).absolute() / str(config.hydra.sweep.subdir)


def _may_be_done(config: DictConfig) -> bool:
    """Whether the directory of a job has a report."""
    try:
        return (_directory(config) / "report.json").is_file()
    except OmegaConfBaseException:  # which it is depends on what only a running job knows
        return False


def _done(config: DictConfig) -> JobReturn | None:
    """What a job came to, if its directory shows it; its config is used up."""
    from fusion_eval.again import standing

    directory = _directory(config)
    with open_dict(config):
        del config["hydra"]
    told = standing(config, directory)
    if told is None:
        return None
    done = JobReturn()
    done.return_value, done.status = told.objective, JobStatus.COMPLETED
    return done
