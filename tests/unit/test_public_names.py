from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import fusion_eval.conf
import pytest

import fusion_eval

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fusion_eval.__path__, "fusion_eval.")
    if not module.name.endswith("__main__") and not module.name.startswith("fusion_eval.conf")
)
CONF = Path(fusion_eval.conf.__file__).parent
TARGETS = sorted(
    {
        target
        for path in CONF.rglob("*.yaml")
        for target in re.findall(r"_target_: (fusion_eval\.[\w.]+)", path.read_text())
    }
)


def test_the_public_names_are_those_of_all_and_of_the_rooms():
    assert sorted(fusion_eval.__all__) == fusion_eval.__all__ == dir(fusion_eval)
    for name in fusion_eval.__all__:
        room = sys.modules[getattr(fusion_eval, name).__module__.rpartition(".")[0]]
        exported = room if hasattr(room, "__all__") and room is not fusion_eval else sys.modules["fusion_eval.config"]
        assert name in exported.__all__


def test_type_checkers_see_exactly_the_public_names():
    tree = ast.parse(Path(fusion_eval.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    assert sorted(alias.name for node in block.body for alias in node.names) == fusion_eval.__all__


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(fusion_eval, "Nonsense")
    with pytest.raises(AttributeError, match="module 'fusion_eval' has no attribute 'Nonsense'"):
        _ = fusion_eval.Nonsense


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_is_public(name):
    module = importlib.import_module(name)
    if not hasattr(module, "__path__"):
        assert module.__all__
    for public in getattr(module, "__all__", ()):
        assert getattr(module, public) is not None
        assert not public.startswith("_")


@pytest.mark.parametrize("target", TARGETS)
def test_conf_names_only_what_its_room_exports(target):
    owner, _, name = target.rpartition(".")
    if owner.rpartition(".")[2][:1].isupper():  # a class method, such as BaseTaskPool.from_yaml
        owner, _, cls = owner.rpartition(".")
        assert callable(getattr(getattr(importlib.import_module(owner), cls), name))
        name = cls
    assert name in importlib.import_module(owner).__all__
    assert owner.count(".") == 1


def test_importing_the_package_waits_for_nothing_heavy():
    heavy = ["torch", "lightning", "torchmetrics", "numpy", "sklearn", "transformers", "hydra", "pandas"]
    code = f"import sys, fusion_eval; dir(fusion_eval); print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_imports_point_one_way():
    """As DESIGN.md draws them; only config, cli and sweeper import Hydra."""
    root = Path(fusion_eval.__file__).parent
    forbidden = {
        "report": ("hydra", "lightning", "fusion_eval.tasks", "fusion_eval.engine", "fusion_eval.taskpool"),
        "merging": ("hydra", "omegaconf", "lightning", "fusion_eval.tasks", "fusion_eval.engine", "fusion_eval.data"),
        "data": ("hydra", "lightning", "fusion_eval.tasks", "fusion_eval.models", "fusion_eval.engine"),
        "tasks": ("hydra", "lightning", "fusion_eval.engine", "fusion_eval.taskpool"),
        "engine": ("hydra", "fusion_eval.taskpool", "fusion_eval.merging"),
        "models": ("hydra", "lightning", "fusion_eval.tasks", "fusion_eval.engine"),
        "taskpool": ("hydra", "lightning"),
    }
    wrong = []
    for room, names in forbidden.items():
        for path in (root / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                wrong += [
                    f"{path.relative_to(root)} imports {module}"
                    for module in imported
                    if any(module == name or module.startswith(f"{name}.") for name in names)
                ]
    assert wrong == []


def test_every_extra_that_is_named_can_be_installed_by_old_versions_of_pip():
    """Before 23.3, pip asks for `open-clip` when it is told `open_clip`, and installs nothing if that is not there."""
    root = Path(fusion_eval.__file__).parents[1]
    section = (root / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([^\s=]+) = \[", section, re.MULTILINE))
    assert {extra for extra in extras if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", extra)} == set()
    texts = [root / "README.md", *(root / "fusion_eval").rglob("*.py"), *(root / "conf").rglob("*.yaml")]
    named = {extra for text in texts for extra in re.findall(r"fusion-eval\[([^\]]+)\]", text.read_text())}
    assert named <= extras
    assert named
