"""Two text tasks from what Python packages ship: `python data.py [DIRECTORY]` saves them as Hugging Face data sets.

- language: which of ten languages a line of dialogue is in (chatterbot-corpus 1.3.3, BSD 3-Clause).
- sentiment: whether ten people found an English word positive or negative (vaderSentiment 3.3.2, MIT; Hutto and
  Gilbert, ICWSM 2014). Words with a mean rating between -1 and 1 on the scale from -4 to 4 are left out.

Splits are drawn by a digest, so they are the same everywhere: of each ten texts about six are for training, one for
validation and three for the test. Words with the same first four letters (good, goodness) stay together.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import yaml

LANGUAGES = [
    "dutch",
    "english",
    "french",
    "german",
    "indonesian",
    "italian",
    "portuguese",
    "spanish",
    "swedish",
    "turkish",
]
MOST = 700
"""Texts of one language at most: there is ten times as much English as French."""


def language() -> Iterator[tuple[str, int, str]]:
    """Text, class and split of lines of at least three words."""
    for label, name in enumerate(LANGUAGES):
        corpus = files("chatterbot_corpus") / "data" / name
        texts = [file.read_text("utf-8") for file in corpus.iterdir() if file.name.endswith(".yml")]
        lines = {line for text in texts for line in _lines(text)}
        for line in sorted(lines, key=_digest)[:MOST]:
            yield line, label, _split(line)


def sentiment() -> Iterator[tuple[str, int, str]]:
    """Word, 1 if it is positive, and split."""
    lexicon = (files("vaderSentiment") / "vader_lexicon.txt").read_text("utf-8")
    for word, mean, *_ in (line.split("\t") for line in lexicon.splitlines()):
        if re.fullmatch("[a-z]{3,}", word) and abs(float(mean)) >= 1:
            yield word, int(float(mean) > 0), _split(word[:4])


def _lines(text: str) -> Iterator[str]:
    for conversation in yaml.safe_load(text)["conversations"]:
        for line in conversation:
            if isinstance(line, str) and len(line.split()) >= 3 and "\n" not in line:
                yield line.strip()


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def _split(key: str) -> str:
    tenth = _digest(key) % 10
    return "test" if tenth < 3 else "val" if tenth == 3 else "train"


def main(directory: Path) -> None:
    """Save `directory/language` and `directory/sentiment`."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    tasks = {"language": (language(), LANGUAGES), "sentiment": (sentiment(), ["negative", "positive"])}
    for name, (rows, classes) in tasks.items():
        splits: dict[str, list[dict[str, object]]] = {"train": [], "val": [], "test": []}
        for text, label, split in rows:
            splits[split].append({"text": text, "label": label})
        features = Features({"text": Value("string"), "label": ClassLabel(names=classes)})
        held = DatasetDict({split: Dataset.from_list(rows, features) for split, rows in splits.items()})
        held.save_to_disk(directory / name)
        print(directory / name, {split: len(rows) for split, rows in splits.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "minilm/data"))
