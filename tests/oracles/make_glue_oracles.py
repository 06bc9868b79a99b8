"""Make tests/oracles/glue: small GPT-2 and T5 checkpoints, texts, and what fusion-bench's GLUE task pools say of them.

Run with a Python that has fusion-bench: python tests/oracles/make_glue_oracles.py
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from fusion_bench.compat.taskpool import flan_t5_glue_text_generation as t5_pool
from fusion_bench.dataset import gpt2_glue
from fusion_bench.modelpool import GPT2ForSequenceClassificationPool
from fusion_bench.taskpool import GPT2TextClassificationTaskPool
from fusion_bench.tasks.flan_t5_text_generation import glue_load_dataset
from fusion_bench.tasks.flan_t5_text_generation.glue_prompt_templates import glue_prompt_templates
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2Model,
    GPT2TokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    T5TokenizerFast,
)

HERE = Path(__file__).parent / "glue"

LABELS = {
    "cola": ["unacceptable", "acceptable"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qnli": ["entailment", "not_entailment"],
    "qqp": ["not_duplicate", "duplicate"],
    "rte": ["entailment", "not_entailment"],
    "sst2": ["negative", "positive"],
    "stsb": None,
}
COLUMNS = {
    "cola": ["sentence"],
    "mnli": ["premise", "hypothesis"],
    "mrpc": ["sentence1", "sentence2"],
    "qnli": ["question", "sentence"],
    "qqp": ["question1", "question2"],
    "rte": ["sentence1", "sentence2"],
    "sst2": ["sentence"],
    "stsb": ["sentence1", "sentence2"],
}
SENTENCES = [
    "The cat sat on the mat.",
    "A dog ran through the park, barking loudly.",
    "Nobody have seen them yet.",
    "It is a film of great beauty and little sense.",
    "Who wrote the letter?",
    "The letter was written by her sister in May.",
    "Water boils at a lower temperature in the mountains.",
    "They was happy",
    "A dull, endless and needless sequel.",
    "Is the train late again?",
    "The train from Lyon arrived an hour late.",
    "Two men are playing chess {outdoors}.",
]
GPT2_TASKS = ["cola", "mnli", "mrpc"]
ROWS = 24


def rows(task: str) -> list[dict]:
    """Deterministic rows of a task: sentences in pairs, labels in turn."""
    columns, labels = COLUMNS[task], LABELS[task]
    made = []
    for index in range(ROWS):
        texts = [SENTENCES[(index * (3 * place + 1) + place * (index // 12)) % 12] for place in range(len(columns))]
        # numbers in pairs that are equal once they are rounded
        label = index * 7 % 12 * 0.4 + index // 12 * 0.04 if labels is None else (index * 5 + index // 3) % len(labels)
        made.append({**dict(zip(columns, texts, strict=True)), "label": label})
    return made


def dataset(task: str) -> DatasetDict:
    label = Value("float32") if LABELS[task] is None else ClassLabel(names=LABELS[task])
    features = Features({**{name: Value("string") for name in COLUMNS[task]}, "label": label})
    split = Dataset.from_list(rows(task), features=features)
    return DatasetDict({"train": split, "validation": split, "validation_matched": split})


def gpt2_tokenizer() -> GPT2TokenizerFast:
    """Bytes as tokens, and the one special token of GPT-2."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return GPT2TokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


def t5_tokenizer() -> T5TokenizerFast:
    """The words of prompts and answers, and single characters for all else.

    "positive" and "negative" take 9 tokens, as many as fusion-bench lets a model write, and "acceptable" 10.
    """
    prompts = " ".join(template["input_text"] for template in glue_prompt_templates.values())
    answers = {"unacceptable", "entailment", "neutral", "contradiction", "yes", "no"}
    spelt = {"acceptable", "negative", "positive"}
    words = sorted({word for word in prompts.split() if word.isalpha()} - spelt | answers)
    characters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [("▁" + word, -4.0) for word in words] + [(piece, -6.0) for piece in [*characters, "ac"]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        extra_ids=0,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def save(model, directory: Path) -> None:
    """Store in half precision, which is exact from then on, a model that is run in single precision."""
    model.half().save_pretrained(directory)
    model.float().eval()
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))


def make_gpt2() -> None:
    size = {"vocab_size": 257, "n_positions": 512, "n_embd": 16, "n_layer": 2, "n_head": 2}
    base = {**size, "bos_token_id": 256, "eos_token_id": 256}
    torch.manual_seed(0)
    save(GPT2Model(GPT2Config(**base, initializer_range=0.2)), HERE / "gpt2" / "base")
    gpt2_tokenizer().save_pretrained(HERE / "gpt2" / "base")
    for task in GPT2_TASKS:
        config = GPT2Config(**base, initializer_range=0.25, num_labels=len(LABELS[task]), pad_token_id=256)
        save(GPT2ForSequenceClassification(config), HERE / "gpt2" / task)


def make_t5(data: dict[str, DatasetDict]) -> T5ForConditionalGeneration:
    """A T5 that has learnt to answer, not always rightly."""
    tokenizer = t5_tokenizer()
    tokenizer.save_pretrained(HERE / "t5")
    torch.manual_seed(1)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
            dropout_rate=0.0,
        )
    )
    prompts, answers = [], []
    for task, template in glue_prompt_templates.items():
        for row in rows(task)[:14]:  # the others it will get wrong at times
            prompts.append(template["input_text"].format(**row))
            words = template["target_text"]
            answers.append(words[str(row["label"])] if isinstance(words, dict) else words.format(row["label"]))
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    labels = tokenizer(answers, padding=True, return_tensors="pt").input_ids
    labels[labels == 0] = -100
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(900):
        batch = torch.arange(step * 16, step * 16 + 16) * 7 % len(prompts)
        used = {key: inputs[key][batch] for key in ("input_ids", "attention_mask")}
        model(**used, labels=labels[batch]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save(model, HERE / "t5")
    return model


def run_gpt2() -> dict:
    loader = "fusion_bench.taskpool.gpt2_text_classification.load_gpt2_dataset"
    tokenizer = {
        "_target_": "fusion_bench.modelpool.huggingface_gpt2_classification.load_gpt2_tokenizer",
        "pretrained_model_name_or_path": str(HERE / "gpt2" / "base"),
    }
    tasks = {
        task: {"_target_": loader, "name": task, "split": "validation_matched" if task == "mnli" else "validation"}
        for task in GPT2_TASKS
    }
    paths = {"_pretrained_": "base", **{task: task for task in GPT2_TASKS}}
    from_pretrained = "transformers.GPT2Model.from_pretrained"
    models_ = {
        name: {"_target_": from_pretrained, "pretrained_model_name_or_path": str(HERE / "gpt2" / path)}
        for name, path in paths.items()
    }
    models = GPT2ForSequenceClassificationPool(tokenizer=OmegaConf.create(tokenizer), models=OmegaConf.create(models_))
    pool = GPT2TextClassificationTaskPool(
        test_datasets=OmegaConf.create(tasks),
        tokenizer=OmegaConf.create(tokenizer),
        dataloader_kwargs=OmegaConf.create({"batch_size": 8, "num_workers": 0}),
        fast_dev_run=False,
    )
    pool._program = SimpleNamespace(modelpool=models, config=OmegaConf.create({}))
    golden = {}
    for name in ("_pretrained_", "mnli"):
        backbone = models.load_model(name)
        golden[name] = {"report": pool.evaluate(backbone), "logits": {}}
        for task in GPT2_TASKS:
            classifier = pool.get_classifier(task, backbone).eval()
            batches = [
                classifier(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                for batch in pool.get_test_dataloader(task)
            ]
            golden[name]["logits"][task] = torch.cat(batches).tolist()
    return golden


def run_t5(model: T5ForConditionalGeneration) -> dict:
    names = [*LABELS]
    config = {
        "tasks": [
            {"name": task, "dataset": {"name": task, "split": "validation_matched" if task == "mnli" else "validation"}}
            for task in names
        ],
        "tokenizer": str(HERE / "t5"),
        "cache_dir": "cache",
        "batch_size": 8,
        "num_workers": 0,
    }
    # The pool gives no attention mask. transformers 4 infers one from the padding; transformers 5 does so for decoders
    # alone, and lets an encoder attend to hundreds of padding tokens.
    generate, lengths = model.generate, set()

    def generate_masked(ids, **settings):
        lengths.add(settings["max_length"])
        return generate(ids, attention_mask=(ids != 0).long(), **settings)

    model.generate = generate_masked
    pool = t5_pool.FlanT5GLUETextGenerationTaskPool(OmegaConf.create(config))
    report = pool.evaluate(model)
    [max_length] = lengths
    return {"max_length": max_length, "report": {task: report[task] for task in names}}


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    torch.set_num_threads(1)
    data = {task: dataset(task) for task in LABELS}
    for module in (gpt2_glue, glue_load_dataset):
        module.load_dataset = lambda path, name: data[name]
    make_gpt2()
    t5 = make_t5(data)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # fusion-bench caches what it tokenizes under ./outputs
        with torch.no_grad():
            golden = {"gpt2": run_gpt2(), "t5": run_t5(t5)}
    golden["rows"] = {task: rows(task) for task in LABELS}
    golden["labels"] = LABELS
    golden["prompts"] = glue_prompt_templates
    golden["versions"] = {name: version(name) for name in ("fusion-bench", "transformers", "tokenizers", "torch")}
    (HERE / "golden.json").write_text(json.dumps(golden, indent=1))


if __name__ == "__main__":
    main()
