from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_eval.data.template import compile_expression, compile_template
from fusion_eval.errors import ConfigError, DataError


@given(st.text(), st.text())
def test_columns_are_put_in_as_they_are(first, second):
    row = {"first": first, "second": second}
    assert compile_template("Q: {{ first }}\nA:{{ second }} \n")(row) == f"Q: {first}\nA:{second} \n"


@given(st.text(max_size=30))
def test_sub_is_re_sub(text):
    assert compile_template(r"{{ text | sub('\\[.*?\\]', '-') }}")({"text": text}) == re.sub(r"\[.*?\]", "-", text)


def test_an_expression_has_a_value_of_any_type():
    row = {"choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answer": "B"}
    assert compile_expression("choices.text")(row) == ["one", "two"]
    assert compile_expression("choices.label.index(answer)")(row) == 1
    assert compile_expression("choices.text | map('sub', 'o', '0') | list")(row) == ["0ne", "tw0"]


@pytest.mark.parametrize("source", ["{{ a", "{{ a | nothing }}", "{% for %}"])
def test_what_is_no_template_is_refused(source):
    with pytest.raises(ConfigError, match=r"^template '"):
        compile_template(source)


@pytest.mark.parametrize("source", ["a +", "a | nothing", ""])
def test_what_is_no_expression_is_refused(source):
    with pytest.raises(ConfigError, match=r"^template '"):
        compile_expression(source)


@pytest.mark.parametrize("compiled", [compile_template("{{ other }}"), compile_expression("other")])
def test_a_missing_column_is_named(compiled):
    with pytest.raises(DataError, match="'other' is undefined"):
        compiled({"question": "?"})


def test_a_value_of_the_wrong_kind_is_an_error_of_the_data():
    with pytest.raises(DataError, match="'C' is not in list"):
        compile_expression("choices.index('C')")({"choices": ["A", "B"]})


def test_a_template_sees_the_row_and_nothing_else():
    with pytest.raises(DataError, match="unsafe"):
        compile_template("{{ text.__class__.__mro__ }}")({"text": ""})


def test_the_templates_that_ship_warn_of_nothing():
    from pathlib import Path

    import fusion_eval.conf
    import yaml

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted((Path(fusion_eval.conf.__file__).parent / "dataset" / "hub").glob("*.yaml")):
            transform = yaml.safe_load(path.read_text(encoding="utf-8")).get("transform") or {}
            for key in ("context", "continuation", "prompt"):
                if key in transform:
                    compile_template.__wrapped__(transform[key])
            for key in ("choices", "labels"):
                if key in transform:
                    compile_expression.__wrapped__(transform[key])
