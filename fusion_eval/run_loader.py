"""Composing the config of a single run: once, where Hydra does it twice."""

from __future__ import annotations

from typing import NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

__all__ = ["RunLoader"]

_RUN = "hydra.mode=RUN"
"""What Hydra adds to the overrides of a run whose config names no mode."""


class _Composed(NamedTuple):
    config_name: str | None
    overrides: list[str]
    cfg: DictConfig


class RunLoader(ConfigLoaderImpl):
    """Hydra's loader, which composes the config of a single run once.

    Hydra composes it to see whether it asks for a sweep (`hydra.mode`), and then to run it.

    Args:
        config_search_path: That of the application.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._seen: _Composed | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a config, as Hydra does.

        Raises:
            ConfigCompositionException: it cannot be; also where a group is given a number, of which Hydra does not say
                which it is.
        """
        parsed = OverridesParser.create().parse_overrides(overrides)
        self._check_choices(parsed)
        if not validate_sweep_overrides:  # only its mode is asked for
            try:
                cfg = super().load_configuration(config_name, overrides, RunMode.RUN, from_shell, False)
                self._seen = _Composed(config_name, [*overrides, _RUN], cfg)
                return cfg
            except HydraException:  # a sweep may leave open what a run must not
                return super().load_configuration(config_name, overrides, run_mode, from_shell, False)
        seen, self._seen = self._seen, None
        if run_mode is not RunMode.RUN or seen is None or seen[:2] != (config_name, overrides):
            return super().load_configuration(config_name, overrides, run_mode, from_shell)
        self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        seen.cfg.hydra.mode = run_mode
        seen.cfg.hydra.overrides.hydra.append(_RUN)
        return seen.cfg

    def _check_choices(self, overrides: list[Override]) -> None:
        for override in overrides:
            group, choice = override.key_or_group, override.value()
            choices = choice.list if isinstance(choice, ChoiceSweep) else [choice]
            if any(isinstance(one, (int, float)) for one in choices) and self.repository.group_exists(group):
                known = ", ".join(self.repository.get_group_options(group))
                raise ConfigCompositionException(f"{override.input_line}: expected one of {known}")
