"""The garbage collector is off while packages are imported, and afterwards does what it did before."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest

from fusion_eval.importing import uncollected_imports


class Node:
    """Part of a cycle with itself: only the collector frees it."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def before_torch(monkeypatch):
    """As when nothing heavy has been imported yet."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    frozen = gc.get_freeze_count()
    yield
    gc.enable()
    if frozen == 0:
        gc.unfreeze()


@pytest.mark.usefixtures("before_torch")
def test_it_is_off_while_packages_are_imported_and_on_again_without_them():
    imported = [Node()]
    with uncollected_imports():
        assert not gc.isenabled()
        imported.append(Node())
    assert gc.isenabled()
    assert gc.get_freeze_count() >= 2
    assert not any(entry is node for entry in gc.get_objects() for node in imported)


@pytest.mark.usefixtures("before_torch")
def test_what_becomes_garbage_later_is_collected():
    with uncollected_imports():
        pass
    known = [weakref.ref(Node()) for _ in range(3000)]  # more than the youngest generation holds
    assert any(reference() is None for reference in known)  # without being asked
    gc.collect()
    assert not any(reference() for reference in known)


@pytest.mark.usefixtures("before_torch")
def test_an_import_that_fails_leaves_it_on():
    with pytest.raises(ModuleNotFoundError), uncollected_imports():
        import a_package_that_nobody_has  # noqa: F401
    assert gc.isenabled()


def test_once_torch_is_there_nothing_changes():
    import torch  # noqa: F401

    frozen = gc.get_freeze_count()
    with uncollected_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


@pytest.mark.usefixtures("before_torch")
def test_who_has_turned_it_off_keeps_it_off():
    gc.disable()
    with uncollected_imports():
        pass
    assert not gc.isenabled()
