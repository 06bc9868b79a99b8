"""Templates, style and script become one file that loads nothing: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render"]


def render(template: str, **context: object) -> str:
    """Fill a template of this package in; whatever is not markup made here is escaped.

    The page's content security policy names the digest of its script, so that nothing else runs, even if something
    slipped through the escaping.

    Args:
        template: Name of the file.
        context: Its variables.
    """
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template(template)
    return page.render(style=Markup(_asset("page.css")), script=Markup(script), script_digest=digest, **context)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fusion_eval.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}  # keeps the order
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(text: str) -> Markup:
    """Let a long name in camel case wrap where a word starts."""
    return Markup("<wbr>").join(re.split(r"(?<=[a-z])(?=[A-Z])", text))


@lru_cache
def _asset(name: str) -> str:
    return resources.files("fusion_eval.report.page").joinpath(name).read_text(encoding="utf-8")
