"""Jinja templates and expressions that turn the columns of a row into texts and lists."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fusion_eval.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

__all__ = ["compile_expression", "compile_template"]


@functools.cache
def compile_template(source: str) -> Callable[[Mapping[str, Any]], str]:
    r"""A Jinja template as a function of a row: `{{ column }}` stands for a column's value.

    White space is kept as it is written. Beside Jinja's own filters there is `sub(pattern, replacement)`, which is
    `re.sub`. Templates run in Jinja's sandbox: they see the row and nothing else.

    Raises:
        ConfigError: it is no template.
        DataError: (the function) a column is missing, or a value is not what the template takes it for.

    Example:
        >>> compile_template("{{ text | sub('[0-9]+', 'n') }}.\n")({"text": "1 and 20"})
        'n and n.\n'
    """
    with _naming(source, ConfigError):
        compiled = _environment().from_string(source)

    def render(row: Mapping[str, Any]) -> str:
        with _naming(source, DataError):
            return compiled.render(row)

    return render


@functools.cache
def compile_expression(source: str) -> Callable[[Mapping[str, Any]], Any]:
    """A Jinja expression, what stands between the braces of a template, as a function of a row; its value has any type.

    Raises:
        ConfigError: it is no expression.
        DataError: (the function) a column is missing, or a value is not what the expression takes it for.

    Example:
        >>> compile_expression("choices.label.index(answer)")({"choices": {"label": ["A", "B"]}, "answer": "B"})
        1
    """
    with _naming(source, ConfigError):
        compiled = _environment().compile_expression(source, undefined_to_none=False)

    def evaluate(row: Mapping[str, Any]) -> Any:
        with _naming(source, DataError):
            value = compiled(row)
            str(value)  # what is undefined raises here
            return value

    return evaluate


@functools.cache
def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["sub"] = lambda text, pattern, replacement: re.sub(pattern, replacement, text)
    return environment


@contextmanager
def _naming(source: str, kind: type[Exception]) -> Iterator[None]:
    """Turn what Jinja, or a filter in a template, raises into an error that names the template."""
    try:
        yield
    except Exception as error:
        raise kind(f"template {source!r}: {error}") from error
