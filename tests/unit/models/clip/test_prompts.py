from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusion_eval.errors import ConfigError
from fusion_eval.models.clip.prompts import Prompts, known_classes

ORACLE = json.loads((Path(__file__).parents[3] / "oracles/clip/prompts.json").read_text(encoding="utf-8"))

CLASSES = {  # as the papers of the data sets give them
    "cifar10": 10,
    "cifar100": 100,
    "cub_200_2011": 200,
    "dtd": 47,
    "emnist_letters": 26,
    "eurosat": 10,
    "fashion_mnist": 10,
    "fer2013": 7,
    "food101": 101,
    "gtsrb": 43,
    "imagenet": 1000,
    "kmnist": 10,
    "mnist": 10,
    "oxford_flowers102": 102,
    "oxford_iiit_pet": 37,
    "pcam": 2,
    "rendered_sst2": 2,
    "resisc45": 45,
    "stanford_cars": 196,
    "stl10": 10,
    "sun397": 397,
    "svhn": 10,
    "tiny_imagenet": 200,
}
TWICE = {"imagenet": {"missile", "sunglasses"}}
"""Names that a published list gives two classes; the file says so."""

OPENAI = ("imagenet", "tiny_imagenet")
"""Where FusionBench renders the last template eighty times, so its own are not taken."""


def test_there_are_class_names_for_every_data_set():
    assert known_classes() == sorted(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_a_list_has_the_published_number_of_classes_each_with_a_name_of_its_own(name):
    classes = Prompts.read(name).classes
    assert len(classes) == CLASSES[name]
    assert {one for one in classes if classes.count(one) > 1} == TWICE.get(name, set())
    assert all(one == one.strip() for one in classes)


@pytest.mark.parametrize("name", CLASSES)
def test_templates_differ_and_class_names_go_into_each_once(name):
    templates = Prompts.read(name).templates
    assert len(set(templates)) == len(templates)
    assert {template.count("{}") for template in templates} == {1}


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in OPENAI])
def test_names_and_templates_are_those_of_fusion_bench(name):
    prompts = Prompts.read(name)
    assert list(prompts.classes) == ORACLE[name]["classes"]
    assert list(prompts.templates) == ORACLE[name]["templates"]


@pytest.mark.parametrize("name", OPENAI)
def test_the_templates_of_openai_end_with_the_one_that_fusion_bench_repeats(name):
    templates = Prompts.read(name).templates
    assert len(templates) == 80
    assert {templates[-1]} == set(ORACLE[name]["templates"])


def test_tiny_imagenet_has_the_names_of_fusion_bench():
    assert list(Prompts.read("tiny_imagenet").classes) == ORACLE["tiny_imagenet"]["classes"]


def test_names_of_imagenet_are_in_the_order_of_fusion_bench():
    """Where OpenAI took a synset's own name: most are cleaner ones, but enough are left to tell the order."""
    ours, theirs = Prompts.read("imagenet").classes, ORACLE["imagenet"]["classes"]
    of_synset = [{part.strip().lower() for part in synset.split(",")} for synset in theirs]
    shared = [name.lower() in synset for name, synset in zip(ours, of_synset, strict=True)]
    assert sum(shared) > 700


def test_a_class_name_may_hold_braces_and_any_script():
    assert Prompts(("{x}", "お"), ("a {}.",)).texts == ["a {x}.", "a お."]


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("classes: [cat, 'no']\ntemplates: ['a {}.']\n")
    assert Prompts.read(str(file)) == Prompts(("cat", "no"), ("a {}.",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("classes: [cat, no]\ntemplates: ['a {}.']", "classes: False is no text; put it in quotes"),
        ("classes: [cat, 1]\ntemplates: ['a {}.']", "classes: 1 is no text; put it in quotes"),
        ("classes: [cat, ' ']\ntemplates: ['a {}.']", "classes: ' ' is no text"),
        ("classes: []\ntemplates: ['a {}.']", "classes: expected a list of strings"),
        ("classes: cat\ntemplates: ['a {}.']", "classes: expected a list of strings such as .*, found 'cat'"),
        ("classes: [cat]\ntemplates: ['a photo']", "templates: 'a photo' has no {} where"),
        ("classes: [cat]", "expected a mapping with the keys classes and templates"),
        ("[cat]", "expected a mapping with the keys classes and templates"),
        ("", "expected a mapping with the keys classes and templates"),
        ("classes: [cat", "cannot be read: .*expected"),
        (None, "cannot be read: .*No such file"),
        (b"\xff\xfe\xfa", "cannot be read: .*decode"),
    ],
)
def test_a_file_that_is_no_list_of_classes_is_refused_by_name(tmp_path, content, message):
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=f"(?s)mine.yaml: {message}"):
        Prompts.read(str(file))
