"""An evaluation of more data than the process may have in memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap

PROGRAM = """
    import resource
    from dataclasses import dataclass
    from functools import partial

    import torch
    from torch import nn
    from torchmetrics.classification import MulticlassAccuracy

    from fusion_eval import Classification, Runner
    from fusion_eval.data import DataCache, DataSource, Samples

    class Rows(Samples):
        class_names = ("even", "odd")

        def __init__(self, items):
            self.items = items

        def __len__(self):
            return self.items

        def __getitem__(self, index):
            return torch.full((200_000,), index % 2, dtype=torch.int32), index % 2

        def fingerprint(self):
            return str(self.items)

    @dataclass(frozen=True)
    class Large(DataSource):
        items: int

        def load(self):
            return Rows(self.items)

    class Parity(nn.Linear):
        def forward(self, inputs):
            return super().forward(nn.functional.one_hot(inputs[:, 7].long(), 2).float())

    model = Parity(2, 2, bias=False)
    model.weight.data.copy_(torch.eye(2))
    runner = Runner(batch_size=20, cache=DataCache("disk", {directory!r}))

    def evaluate(items):
        accuracy = partial(MulticlassAccuracy, average="micro")
        result = runner.run("large", Classification(Large(items), {{"accuracy": accuracy}}), model)
        assert (result.count, result.metrics["accuracy"]) == (items, 1.0)

    evaluate(60)  # threads, imports and arenas are there once and for all: they are not what is limited
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmData")]
    resource.setrlimit(resource.RLIMIT_DATA, (int(line.split()[1]) * 1024 + 160_000_000,) * 2)
    evaluate(400)
    try:
        torch.empty(320_000_000, dtype=torch.uint8).fill_(1)
    except RuntimeError:
        print("too much")
"""


def test_a_task_larger_than_the_memory_allowed_is_prepared_and_evaluated(tmp_path):
    program = tmp_path / "program.py"  # a file: of code without one, nobody could say later that it is the same
    program.write_text(textwrap.dedent(PROGRAM.format(directory=str(tmp_path))))
    ran = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert ran.stdout == "too much\n", ran.stderr
    stored = {path.stat().st_size for path in (tmp_path / "prepared").glob("*/0.values")}
    assert stored == {60 * 800_000, 400 * 800_000}
