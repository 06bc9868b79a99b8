"""Between YAML and objects: compose configs, build what they describe, and write objects back as configs.

`build` is the only caller of `hydra.utils.instantiate`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fusion_eval.config_check import check_node, join_keys, public_name
from fusion_eval.errors import ConfigError, FusionEvalError, suggest

__all__ = ["build", "compose", "compose_file", "compose_option", "config_modules", "recorded", "to_config"]

_CONF = "fusion_eval.conf"


def config_modules() -> dict[str, str]:
    """Who provides config groups, and in which module."""
    return {"fusion_eval": _CONF, **{point.name: point.value for point in entry_points(group=_CONF)}}


class ConfSearchPath(SearchPathPlugin):
    """Lets every Hydra app see our config groups and those that other packages announce.

    A package adds its own with an entry point: `[project.entry-points."fusion_eval.conf"]`, `mine = "my_package.conf"`.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append `pkg://fusion_eval.conf` and the module of each `fusion_eval.conf` entry point."""
        known = {element.path for element in search_path.get_path()}
        for provider, module in config_modules().items():
            if f"pkg://{module}" not in known:
                search_path.append(provider, f"pkg://{module}")


Plugins.instance().register(ConfSearchPath)
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what we raise


def compose(overrides: Iterable[str] = ()) -> DictConfig:
    """Compose the primary config as the command line does.

    Args:
        overrides: What would stand behind `fusion-eval` on the command line.

    Raises:
        ConfigError: if an override names nothing that exists.

    Example:
        >>> compose(["model=ties", "model.density=0.3"]).model.density
        0.3
    """
    with _hydra_errors("the config"), _fresh_hydra(), initialize_config_module(_CONF, version_base="1.3"):
        return hydra_compose("config", list(overrides))


def compose_option(group: str, option: str) -> dict[str, Any]:
    """Compose one option of one config group, alone.

    Raises:
        ConfigError: if the group has no such option; the message lists those it has.

    Example:
        >>> compose_option("dataset", "mnist")["split"]
        'test'
    """
    with _fresh_hydra(), initialize_config_module(_CONF, version_base="1.3"):
        options = GlobalHydra.instance().config_loader().get_group_options(group)
        if option not in options:
            raise ConfigError(f"{group}: no option {option!r}{suggest(option, options)}")
        with _hydra_errors(f"{group}={option}"):
            composed = hydra_compose(overrides=[f"+{group}@option={option}"])
    return _plain(composed.option)


def compose_file(path: Path, around: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Compose a YAML file that may have a defaults list, which may name options of our config groups.

    Args:
        path: The file.
        around: What interpolations find that the file itself does not have, by its key, such as `modelpool.base`; None
            as a value: it is not there. The file may refer to itself as `taskpool`.

    Raises:
        ConfigError: if the file is missing, is no YAML mapping, has duplicate keys, or its defaults do not exist.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    with _hydra_errors(str(path)):
        raw = OmegaConf.load(path)
    if not isinstance(raw, DictConfig):
        raise ConfigError(f"{path}: expected a mapping, found {type(raw).__name__}")
    if "defaults" in raw:
        if path.suffix != ".yaml":
            raise ConfigError(
                f"{path}: the name of a file with a defaults list must end in .yaml, as Hydra looks for that"
            )
        directory = str(path.parent.resolve())
        with _hydra_errors(str(path)), _fresh_hydra(), initialize_config_dir(directory, version_base="1.3"):
            raw = hydra_compose(path.stem)
    elif OmegaConf.is_interpolation(raw, "fast_dev_run"):  # FusionBench's pools take it from the config around
        del raw["fast_dev_run"]
    with _hydra_errors(str(path)):
        return _plain(_inside(cast("dict[str, Any]", OmegaConf.to_container(raw)), around or {}, path).taskpool)


def _inside(content: dict[str, Any], around: Mapping[str, Any], path: Path) -> DictConfig:
    """A config with the content of a file both at its root and as `taskpool`: interpolations of either kind find it."""
    for key, value in content.items():
        if value == f"${{{key}}}" and around.get(key) is None:
            raise ConfigError(f"{path}: {key}: {value} is nothing in the file; give it, for example +{key}=...")
    whole = OmegaConf.create(content)
    for key, value in around.items():
        if value is not None:
            OmegaConf.update(whole, key, value, force_add=True)
    whole.taskpool = content
    return whole


def build(config: Mapping[str, Any] | DictConfig, where: str = "") -> Any:
    """Instantiate what a config describes by `_target_`, depth first.

    Every node is checked against the signature of its target first, so that a typo is refused before anything is built.

    Args:
        config: A node with `_target_`.
        where: What to put before the keys in messages: a key, or a file and a colon.

    Raises:
        ConfigError: a value is missing or of the wrong kind, a key unknown, a target not importable, or a constructor
            refused its arguments.

    Example:
        >>> build({"_target_": "fusion_eval.merging.TaskArithmetic", "scaling": 0.4}).scaling
        0.4
    """
    if not isinstance(config, (Mapping, DictConfig)):
        raise ConfigError(f"{where or 'the config'}: expected a mapping with _target_, found {config!r}")
    node = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    where = where or str(node._get_full_key(None) or "")
    with _hydra_errors(where):
        plain = _plain(node)
    missing = sorted(OmegaConf.missing_keys(plain))
    if missing:
        names = [join_keys(where, key) for key in missing]
        example = "" if where.endswith(":") else f", for example {names[0]}=..."
        raise ConfigError(f"{', '.join(names)}: a value is required{example}")
    check_node(plain, where)
    try:
        return instantiate(OmegaConf.create(plain, flags={"allow_objects": True}), _convert_="all")
    except InstantiationException as error:
        key = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else ""
        reason = error.__cause__ if isinstance(error.__cause__, FusionEvalError) else f"{error.__cause__ or error}"
        raise ConfigError(f"{join_keys(where, key).removesuffix(':')}: {reason}") from error


def to_config(value: Any) -> Any:
    """Describe a value so that `build` makes an equal one: dataclasses and partials become `_target_` mappings.

    A bare class or function is described as a partial of it without arguments.

    Raises:
        ConfigError: if the value (a lambda, a loaded model) has no such description.

    Example:
        >>> from fusion_eval.merging import Expert
        >>> to_config(Expert("mnist"))
        {'_target_': 'fusion_eval.merging.Expert', 'name': 'mnist'}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_config(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_config(item) for item in value]
    if isinstance(value, type) or inspect.isfunction(value):
        value = functools.partial(value)
    if isinstance(value, functools.partial):
        arguments = {"_args_": to_config(value.args)} if value.args else {}
        return {"_target_": public_name(value.func), "_partial_": True, **arguments, **to_config(value.keywords)}
    if dataclasses.is_dataclass(value):
        fields = {field.name: to_config(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"_target_": public_name(type(value)), **fields}
    raise ConfigError(
        f"{value!r} cannot be written as YAML; give a dataclass or a functools.partial of a named callable"
    )


def recorded(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """The composed config as a report records it, each part once: calibration data are of the tasks and models above.

    Args:
        cfg: The whole config.
        resolve: Whether interpolations are replaced by their values.
    """
    plain = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=resolve))
    calibration = plain["calibration"]
    if not isinstance(calibration, dict):
        raise ConfigError(f"calibration: expected a mapping with _target_, found {calibration!r}")
    if plain["model"].get("calibration") == calibration:
        plain["model"]["calibration"] = "${calibration}"
    if calibration["tasks"] == plain["taskpool"].get("tasks", {}):
        calibration["tasks"] = "${taskpool.tasks}"
    if calibration["models"] == plain["modelpool"]:
        calibration["models"] = "${modelpool}"
    return plain


@contextmanager
def _fresh_hydra() -> Iterator[None]:
    """Let something be composed inside a Hydra app, which has the one global Hydra already."""
    outer = get_gh_backup()
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        restore_gh_from_backup(outer)


@contextmanager
def _hydra_errors(where: str) -> Iterator[None]:
    """Turn what Hydra, OmegaConf, YAML and the file system raise into a ConfigError that says where."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _plain(node: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))
