"""What an object does, as text that is equal for equal objects in any process on any machine."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fusion_eval.data.digest import digest_content
from fusion_eval.engine.code import UndescribableError, code_name, code_versions
from fusion_eval.engine.fingerprint import fingerprint_weights

__all__ = ["Description"]

_NO_BEHAVIOUR = {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
"""Attributes of every module that are fingerprinted as weights, described apart, or do not last."""


class Description:
    """Describes values, and collects the code that they run.

    The stricter sibling of `describe_architecture`: that one may take equal models for different ones, and need only
    hold within a process.

    Example:
        >>> description = Description()
        >>> description.add(nn.Dropout(0.1)) == Description().add(nn.Dropout(0.1)) != Description().add(nn.Dropout(0.2))
        True
        >>> list(description.code)
        ['torch']
    """

    def __init__(self) -> None:
        self._code: dict[int, Any] = {}
        self._known: dict[int, tuple[Any, str]] = {}
        self._open: list[int] = []

    @property
    def code(self) -> dict[str, str]:
        """Package or module to the version or digest of the code that the described values run.

        Raises:
            UndescribableError: some of it comes from no file.
        """
        return dict(sorted(code_versions(*self._code.values()).items()))

    def add(self, *values: Any) -> str:
        """The digest of what values are and do; the weights of modules given here directly are left out.

        Raises:
            UndescribableError: a value (a lambda, an instance of a class defined in a function) means something in this
                process only.
        """
        return _digest([self._module(part) if isinstance(part, nn.Module) else self._value(part) for part in values])

    def name(self, code: Any) -> str:
        """The importable name of a class or function, which is from then on part of `code`.

        Raises:
            UndescribableError: it has none.
        """
        self._code[id(code)] = code
        return code_name(code)

    def _value(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, (torch.device, torch.dtype, torch.layout)):
            return str(value) if not isinstance(value, torch.device) else "device"  # where does not decide what
        if id(value) in self._open:
            return ["outer", len(self._open) - self._open.index(id(value))]
        if id(value) not in self._known:
            self._open.append(id(value))
            self._known[id(value)] = value, _digest(self._parts(value))
            self._open.pop()
        return self._known[id(value)][1]

    def _parts(self, value: Any) -> Any:
        """A value in terms of smaller ones."""
        parts: Any
        if isinstance(value, (type, FunctionType)):
            parts = self.name(value)
        elif isinstance(value, BuiltinFunctionType):
            parts = [str(value.__module__), value.__qualname__]
        elif isinstance(value, MethodType):
            parts = [value.__func__.__qualname__, self._value(value.__self__)]
        elif isinstance(value, functools.partial):
            parts = [self._value(part) for part in (value.func, value.args, value.keywords)]
        elif isinstance(value, nn.Module):
            parts = [self._module(value), fingerprint_weights(value)]
        elif isinstance(value, (Tensor, np.ndarray)):
            parts = digest_content([value])
        elif isinstance(value, Mapping):
            parts = [self.name(type(value)), [[self._value(key), self._value(item)] for key, item in value.items()]]
        elif isinstance(value, (list, tuple)):
            parts = [self.name(type(value)), [self._value(item) for item in value]]
        elif isinstance(value, (set, frozenset)):
            parts = [self.name(type(value)), sorted(_digest(self._value(item)) for item in value)]
        else:
            parts = [self.name(type(value)), self._state(value)]
        return [type(value).__name__, parts]

    def _module(self, module: nn.Module) -> Any:
        """Class, attributes and parts of a module, without its weights."""
        attributes = {key: self._value(item) for key, item in vars(module).items() if key not in _NO_BEHAVIOUR}
        parts = [[name, None if part is None else self._module(part)] for name, part in module._modules.items()]
        return [self.name(type(module)), self.name(type(module).forward), attributes, parts]

    def _state(self, value: Any) -> Any:
        """What an object shows of itself, if that is more than its address, else its attributes."""
        text = repr(value)
        if " at 0x" not in text:  # what has no repr of its own shows that
            return text
        if not hasattr(value, "__dict__"):
            raise UndescribableError(f"{text} shows nothing but its address")
        return self._value(vars(value))


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
