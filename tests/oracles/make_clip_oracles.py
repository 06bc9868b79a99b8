"""Writes clip/: a small CLIP with two fine-tuned vision encoders, images, and what FusionBench makes of them.

It has a virtual environment of its own, as FusionBench 0.2.33 needs transformers 4; a CPU build of torch goes first so
that no CUDA build is taken:

    python -m venv /tmp/fb && /tmp/fb/bin/pip install torch==2.13.0 && /tmp/fb/bin/pip install fusion-bench==0.2.33 \
        transformers==4.57.3 "datasets<5"
    /tmp/fb/bin/python tests/oracles/make_clip_oracles.py

`base` is a `CLIPModel` with tokenizer and image processor, `first` and `second` are `CLIPVisionModel`s, all with random
weights and as `save_pretrained` leaves them. They are made only where there are none: the same texts give another BPE
each time. golden.safetensors holds, for each of the eight tasks, `<task>/images`, uint8, `<task>/targets`, a third of
them the most likely class, and of `CLIPVisionModelTaskPool` on `first` `<task>/logits`, `<task>/accuracy` and
`<task>/loss`; its batch size divides the number of images. prompts.json holds class names and rendered templates of all
data sets that FusionBench knows.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import lightning
import numpy as np
import torch
from fusion_bench.taskpool import CLIPVisionModelTaskPool
from fusion_bench.tasks.clip_classification import get_classnames_and_templates
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast, CLIPVisionModel

FOLDER = Path(__file__).parent / "clip"
TASKS = ("sun397", "stanford-cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
NAMES = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "cub_200_2011": "cub-200-2011",
    "dtd": "dtd",
    "emnist_letters": "emnist_letters",
    "eurosat": "eurosat",
    "fashion_mnist": "fashion_mnist",
    "fer2013": "fer2013",
    "food101": "food101",
    "gtsrb": "gtsrb",
    "imagenet": "imagenet",
    "kmnist": "kmnist",
    "mnist": "mnist",
    "oxford_flowers102": "oxford_flowers102",
    "oxford_iiit_pet": "oxford-iiit-pet",
    "pcam": "pcam",
    "rendered_sst2": "rendered-sst2",
    "resisc45": "resisc45",
    "stanford_cars": "stanford-cars",
    "stl10": "stl10",
    "sun397": "sun397",
    "svhn": "svhn",
    "tiny_imagenet": "tiny-imagenet",
}
COUNT, BATCH = 12, 6
START, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer(texts: list[str]) -> CLIPTokenizerFast:
    """A BPE in the form of CLIP's, learnt from the prompts."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    vocab = list(model["vocab"])
    vocab += [f"{letter}</w>" for letter in alphabet if f"{letter}</w>" not in model["vocab"]]
    merges = [" ".join(pair) for pair in model["merges"]]
    (FOLDER / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate([*vocab, START, END])}))
    (FOLDER / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    made = CLIPTokenizerFast(str(FOLDER / "vocab.json"), str(FOLDER / "merges.txt"), model_max_length=77)
    (FOLDER / "vocab.json").unlink()
    (FOLDER / "merges.txt").unlink()
    return made


def clip(vocabulary: int) -> CLIPModel:
    shared = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    config = CLIPConfig(
        text_config={**shared, "vocab_size": vocabulary, "projection_dim": 16, **ends},
        vision_config={**shared, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    model = CLIPModel(config)
    with torch.no_grad():  # initial weights are so small that all images look alike
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


def images(rng: np.random.Generator) -> np.ndarray:
    """Blotches of colour, wider than high, so that the processor resizes and crops."""
    coarse = rng.integers(0, 256, (COUNT, 5, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((40, 36), Image.Resampling.BICUBIC)) for image in coarse])


def evaluate(golden: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    """Logits and report of the first expert."""
    data = {
        task: [
            {"image": Image.fromarray(image.numpy()), "label": int(target)}
            for image, target in zip(golden[f"{task}/images"], targets[task], strict=True)
        ]
        for task in TASKS
    }
    pool = Recording(
        data,
        processor=str(FOLDER / "base"),
        clip_model=str(FOLDER / "base"),
        dataloader_kwargs={"batch_size": BATCH, "shuffle": False},
    )
    report = pool.evaluate(CLIPVisionModel.from_pretrained(FOLDER / "first"))
    return {task: torch.cat(pool.logits[task]).contiguous() for task in TASKS}, report


class Recording(CLIPVisionModelTaskPool):
    """Keeps the logits."""

    def _evaluate(self, classifier, test_loader, num_classes, task_name=None):
        self.logits = getattr(self, "logits", {})
        kept = self.logits[task_name] = []
        hook = classifier.register_forward_hook(lambda module, inputs, output: kept.append(output["logits"].clone()))
        result = super()._evaluate(classifier, test_loader, num_classes, task_name)
        hook.remove()
        return result


def make_models(prompts: dict[str, dict[str, list[str]]]) -> None:
    """Writes `base`, `first` and `second`, with a tokenizer that knows the prompts."""
    lightning.seed_everything(0)
    texts = [
        template.replace("{}", name)
        for task in TASKS
        for of_task in [prompts[task.replace("-", "_")]]
        for name in of_task["classes"]
        for template in of_task["templates"]
    ]
    made = tokenizer(texts)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = CLIPProcessor(CLIPImageProcessor(**size), made)
    base = clip(len(made))
    base.save_pretrained(FOLDER / "base")
    processor.save_pretrained(FOLDER / "base")
    for name in ("first", "second"):
        expert = CLIPVisionModel.from_pretrained(FOLDER / "base")
        with torch.no_grad():
            for parameter in expert.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        expert.save_pretrained(FOLDER / name)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    prompts = {}
    for name, theirs in NAMES.items():
        classes, templates = get_classnames_and_templates(theirs)
        prompts[name] = {"classes": classes, "templates": [template("{}") for template in templates]}
    (FOLDER / "prompts.json").write_text(json.dumps(prompts, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    if not (FOLDER / "base").is_dir():
        make_models(prompts)

    rng = np.random.default_rng(0)
    golden = {f"{task}/images": torch.from_numpy(images(rng)) for task in TASKS}
    unlabelled = {task: torch.zeros(COUNT, dtype=torch.int64) for task in TASKS}
    logits, _ = evaluate(golden, unlabelled)
    targets = {task: logits[task].topk(3).indices[range(COUNT), torch.arange(COUNT) % 3] for task in TASKS}
    logits, report = evaluate(golden, targets)
    for task in TASKS:
        golden[f"{task}/targets"] = targets[task]
        golden[f"{task}/logits"] = logits[task]
        golden[f"{task}/accuracy"] = torch.tensor(report[task]["accuracy"])
        golden[f"{task}/loss"] = torch.tensor(report[task]["loss"])
    versions = {name: version(name) for name in ("fusion-bench", "transformers", "torch")}
    save_file(
        {name.replace("-", "_"): tensor for name, tensor in golden.items()}, FOLDER / "golden.safetensors", versions
    )


if __name__ == "__main__":
    main()
