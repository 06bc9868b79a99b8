"""GLUE through the pools of conf/, with nothing but paths overridden: GPT-2, BERT and T5, small, saved locally."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    T5ForConditionalGeneration,
)

from fusion_eval import build, compose
from fusion_eval.data import HuggingFace, Tokenized
from fusion_eval.evaluation import evaluate as evaluate_config
from fusion_eval.merging import Average, Base, Expert
from fusion_eval.models import Backbone, CheckpointHead, ModelPool
from fusion_eval.tasks import Classification, CrossEntropy

ORACLES = Path(__file__).parents[1] / "oracles" / "glue"
GOLDEN = json.loads((ORACLES / "golden.json").read_text())
GPT2_TASKS = ["cola", "mnli", "mrpc"]
BERT_TASKS = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Each task as `save_to_disk` of the hub's data set would write it, with 24 samples."""
    root = tmp_path_factory.mktemp("glue")
    for task, rows in GOLDEN["rows"].items():
        names = GOLDEN["labels"][task]
        columns = {name: Value("string") for name in rows[0] if name != "label"}
        label = Value("float32") if names is None else ClassLabel(names=names)
        split = Dataset.from_list(rows, features=Features({**columns, "label": label}))
        splits = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
        other = split.map(lambda row, names=tuple(columns): {name: row[name].upper() for name in names})
        DatasetDict({**dict.fromkeys(splits, split), "train": other}).save_to_disk(root / task)
    return root


def on_disk(tasks, data):
    """The overrides that let tasks read local data of another size."""
    for task in tasks:
        yield f"taskpool.tasks.{task}.data.path={data}/{task.removesuffix('_mismatched')}"
        yield f"taskpool.tasks.{task}.data.expected_size=null"


def without(names, *groups):
    return [f"~{group}.{name}" for name in names for group in groups]


def evaluate(overrides, method=None):
    cfg = compose([*overrides, "progress=false", "store=off"])
    model = build(cfg.modelpool).merge(method or Base())
    return build(cfg.taskpool).evaluate(model, build(cfg.runner))


@pytest.fixture(scope="module")
def gpt2(data):
    others = ["qnli", "qqp", "rte", "sst2"]
    return [
        "taskpool=gpt2_glue",
        "modelpool=gpt2_glue",
        f"modelpool.base={ORACLES}/gpt2/base",
        *(f"modelpool.experts.{task}={ORACLES}/gpt2/{task}" for task in GPT2_TASKS),
        *without(others, "taskpool.tasks", "modelpool.experts", "modelpool.heads"),
        *on_disk(GPT2_TASKS, data),
    ]


@pytest.mark.parametrize(("name", "method"), [("_pretrained_", Base()), ("mnli", Expert("mnli"))])
def test_gpt2_has_the_results_of_fusion_bench(gpt2, name, method):
    report = evaluate([*gpt2, "batch_size=24"], method)
    oracle = GOLDEN["gpt2"][name]
    for task in GPT2_TASKS:
        logits = torch.tensor(oracle["logits"][task])
        samples = report.results[task].samples
        targets = torch.tensor(samples["target"])
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        np.testing.assert_allclose(samples["loss"], losses.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(samples["confidence"], logits.softmax(1).amax(1).numpy(), rtol=0, atol=1e-5)
        assert samples["prediction"].tolist() == logits.argmax(1).tolist()
        assert report[task]["accuracy"] == pytest.approx(oracle["report"][task]["accuracy"], abs=1e-7)
        assert report[task]["loss"] == pytest.approx(oracle["report"][task]["loss"], abs=1e-6)  # 8 divides 24


def test_the_metrics_are_those_of_scikit_learn(gpt2):
    report = evaluate(gpt2)
    cola, mrpc = (report.results[task].samples for task in ("cola", "mrpc"))
    assert report["cola"]["matthews"] == pytest.approx(matthews_corrcoef(cola["target"], cola["prediction"]), abs=1e-6)
    assert report["mrpc"]["f1"] == pytest.approx(f1_score(mrpc["target"], mrpc["prediction"]), abs=1e-6)
    assert report["mrpc"]["accuracy"] == accuracy_score(mrpc["target"], mrpc["prediction"])
    assert report.results["cola"].standard_errors.keys() == {"matthews", "accuracy", "loss"}


@pytest.mark.parametrize(
    "change",
    [
        ["batch_size=1"],
        ["batch_size=7"],
        [f"taskpool.tasks.{task}.data.transform.padding=left" for task in GPT2_TASKS] + ["batch_size=7"],
    ],
    ids=["one by one", "sevens", "left padding"],
)
def test_gpt2_does_not_depend_on_batches_and_padding(gpt2, change):
    whole, other = evaluate([*gpt2, "batch_size=24"]), evaluate([*gpt2, *change])
    for task in GPT2_TASKS:
        for name in ("loss", "confidence"):
            columns = (report.results[task].samples[name] for report in (whole, other))
            np.testing.assert_allclose(*columns, rtol=0, atol=1e-5)
        assert whole[task] == pytest.approx(other[task], abs=1e-5)


def test_the_order_of_samples_changes_nothing(gpt2, data, tmp_path):
    split = Dataset.load_from_disk(str(data / "mrpc" / "validation"))
    split.select(range(23, -1, -1)).save_to_disk(tmp_path / "mrpc")
    reverse = [*gpt2, "batch_size=7", f"taskpool.tasks.mrpc.data.path={tmp_path}/mrpc"]
    first, second = evaluate([*gpt2, "batch_size=7"])["mrpc"], evaluate(reverse)["mrpc"]
    assert first == pytest.approx(second, abs=1e-5)


def test_a_text_longer_than_the_context_is_cut_and_counted(gpt2):
    short = [f"taskpool.tasks.{task}.data.transform.max_length=30" for task in GPT2_TASKS]
    samples = evaluate([*gpt2, *short]).results["cola"].samples
    lengths = [len(row["sentence"].encode()) for row in GOLDEN["rows"]["cola"]]
    assert samples["truncated"].tolist() == [length > 30 for length in lengths]
    assert samples["truncated"].any()


def test_the_report_counts_what_was_cut(gpt2, tmp_path):
    short = ["taskpool.tasks.cola.data.transform.max_length=30", *without(["mnli"], "taskpool.tasks")]
    cfg = compose([*gpt2, *short, "model=base", "references=false", "progress=false", "store=off", "bootstrap=0"])
    evaluate_config(cfg, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    cut = sum(len(row["sentence"].encode()) > 30 for row in GOLDEN["rows"]["cola"])
    assert report["truncated"] == {"cola": cut, "mrpc": 0}
    [warning] = [text for text in report["warnings"] if "longer than the context" in text]
    assert warning.startswith(f"cola: {cut} of 24 inputs")
    assert warning in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("method", [["model=fisher"], ["model=adamerging_task", "model.steps=2"]])
def test_a_method_with_data_reads_texts_of_the_training_split(gpt2, method):
    cfg = compose([*gpt2, *method, "calibration.samples=6", "calibration.batch_size=4", "progress=false"])
    merged = build(cfg.modelpool).merge(build(cfg.model))
    assert {record["samples"] for record in merged.record["calibration"]["experts"].values()} == {6}
    assert all(tensor.isfinite().all() for tensor in merged.backbone.state_dict().values())


@pytest.fixture(scope="module")
def bert(data, tmp_path_factory):
    """BERTs with a tokenizer of T5's pieces; the base is one for pretraining, with heads of its own."""
    root = tmp_path_factory.mktemp("bert")
    tokenizer = AutoTokenizer.from_pretrained(ORACLES / "t5")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    common = {**size, "vocab_size": len(tokenizer), "initializer_range": 0.3, "pad_token_id": 0}
    torch.manual_seed(0)
    BertForPreTraining(BertConfig(**common)).save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    for task in BERT_TASKS:
        labels = len(GOLDEN["labels"][task] or [0])
        BertForSequenceClassification(BertConfig(**common, num_labels=labels)).save_pretrained(root / task)
    overrides = [
        "taskpool=bert_glue",
        "modelpool=bert_glue",
        f"modelpool.base={root}/base",
        *(f"modelpool.experts.{task}={root}/{task}" for task in BERT_TASKS),
        *on_disk([*BERT_TASKS, "mnli_mismatched"], data),
    ]
    return root, overrides


def oracle_logits(path, task):
    """Logits of transformers' own forward, one text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent / "base")
    with torch.inference_mode():
        texts = [[row[name] for name in row if name != "label"] for row in GOLDEN["rows"][task]]
        return torch.cat([model(**tokenizer(*text, return_tensors="pt")).logits for text in texts])


@pytest.mark.parametrize("task", ["cola", "mnli", "stsb"])
def test_an_expert_with_its_head_is_what_transformers_loads(bert, task):
    root, overrides = bert
    others = [name for name in (*BERT_TASKS, "mnli_mismatched") if name != task]
    report = evaluate([*overrides, *without(others, "taskpool.tasks"), "batch_size=5"], Expert(task))
    logits, samples = oracle_logits(root / task, task), report.results[task].samples
    if task == "stsb":
        np.testing.assert_allclose(samples["prediction"], logits[:, 0].numpy(), rtol=0, atol=1e-5)
        assert report[task]["pearson"] == pytest.approx(pearsonr(logits[:, 0], samples["target"])[0], abs=1e-6)
        assert report[task]["spearman"] == pytest.approx(spearmanr(logits[:, 0], samples["target"])[0], abs=1e-6)
    else:
        np.testing.assert_allclose(samples["confidence"], logits.softmax(1).amax(1).numpy(), rtol=0, atol=1e-5)
        assert samples["prediction"].tolist() == logits.argmax(1).tolist()


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2}


@pytest.mark.parametrize(
    ("kind", "size", "pad"),
    [
        ("bert", SMALL, 0),
        ("roberta", SMALL, 0),
        ("deberta-v2", SMALL, 0),
        ("distilbert", DISTILBERT, 0),
        ("llama", SMALL, 0),
        ("llama", SMALL, None),
        ("gpt2", GPT2, 0),
        ("gpt2", GPT2, None),
    ],
    ids=["bert", "roberta", "deberta", "distilbert", "llama", "llama without pad", "gpt2", "gpt2 without pad"],
)
def test_any_architecture_pools_as_its_own_classifier(kind, size, pad, tmp_path):
    common = {"vocab_size": 150, "num_labels": 3, "initializer_range": 0.3, "eos_token_id": 1, "bos_token_id": 1}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **size, **common, pad_token_id=pad)
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    classifier.save_pretrained(tmp_path)
    transform = Tokenized(str(ORACLES / "t5"))
    texts = ["Is it good?", "x", "The premise does not imply the hypothesis."]
    inputs, targets = transform.collate([(transform(text), 0) for text in texts])
    inputs.pop("token_type_ids", None)
    pool = ModelPool(Backbone(str(tmp_path), "AutoModelForSequenceClassification"), str(tmp_path), {})
    model, head = pool.merge(Base()).eval(), CheckpointHead(str(tmp_path)).load().eval()
    task = Classification(HuggingFace("no/such"), {"loss": CrossEntropy}, num_classes=3)
    with torch.inference_mode():
        logits = task.predict(model, head, (inputs, targets), None).outputs
        for row, text in zip(logits, texts, strict=True):
            alone = classifier(input_ids=transform(text)["input_ids"][None]).logits[0]
            torch.testing.assert_close(row, alone, rtol=1e-5, atol=1e-5)


def test_a_merge_of_bert_is_evaluated_on_all_of_glue(bert):
    report = evaluate(bert[1], Average())
    assert {task: result.primary for task, result in report.results.items()} == {
        "cola": "matthews",
        "mnli": "accuracy",
        "mnli_mismatched": "accuracy",
        "mrpc": "accuracy",
        "qnli": "accuracy",
        "qqp": "accuracy",
        "rte": "accuracy",
        "sst2": "accuracy",
        "stsb": "pearson",
    }
    assert {result.count for result in report.results.values()} == {24}
    assert report["mnli"] == report["mnli_mismatched"]  # the same rows here, and the same head


@pytest.fixture(scope="module")
def t5(data):
    return [
        "taskpool=flan_t5_base_glue",
        "modelpool=flan_t5_base_glue",
        f"modelpool.base={ORACLES}/t5",
        *on_disk(GOLDEN["rows"], data),
    ]


def test_t5_has_the_results_of_fusion_bench(t5):
    """Of cola the right words end with the token after the last that is written, of sst2 with the last."""
    report = evaluate(t5)
    for task, metrics in GOLDEN["t5"]["report"].items():
        name = {"accuracy": "accuracy", "spearman_rho": "spearman"}[next(iter(metrics))]
        assert report[task][name] == pytest.approx(next(iter(metrics.values())), abs=1e-6)
    assert len({report[task]["accuracy"] for task in GOLDEN["t5"]["report"] if task != "stsb"}) > 3


def test_t5_writes_the_same_in_any_batch(t5):
    whole, other = evaluate([*t5, "batch_size=24"]), evaluate([*t5, "batch_size=5"])
    for task in GOLDEN["rows"]:
        texts = [report.results[task].samples["text"].tolist() for report in (whole, other)]
        assert texts[0] == texts[1]
    assert whole == other


def test_t5_weighs_the_words_as_transformers_does(t5, data):
    scoring = [override for override in t5 if "stsb" not in override]
    report = evaluate([*scoring, "taskpool=flan_t5_base_glue_scoring", "batch_size=7"])
    model, tokenizer = (
        T5ForConditionalGeneration.from_pretrained(ORACLES / "t5").eval(),
        AutoTokenizer.from_pretrained(ORACLES / "t5"),
    )
    task = build(compose([*scoring, "taskpool=flan_t5_base_glue_scoring"]).taskpool).tasks["mnli"]
    template, words = task.data.transform.template, task.words
    scores = []
    with torch.inference_mode():
        for row in GOLDEN["rows"]["mnli"]:
            prompt = tokenizer(template.format(**row), return_tensors="pt")
            answers = [tokenizer(word, return_tensors="pt").input_ids for word in words]
            scores.append([-float(model(**prompt, labels=ids).loss) * ids.shape[1] for ids in answers])
    scores = torch.tensor(scores)
    samples = report.results["mnli"].samples
    np.testing.assert_allclose(samples["confidence"], scores.softmax(1).amax(1).numpy(), rtol=0, atol=1e-5)
    assert samples["prediction"].tolist() == scores.argmax(1).tolist()


def test_an_adapter_is_an_expert(t5, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = T5ForConditionalGeneration.from_pretrained(ORACLES / "t5")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path)
    exact = "modelpool.dtype=float32"  # the base is stored in half precision, as which merges are rounded too
    models = build(compose([*t5, f"modelpool.experts.cola={tmp_path}", exact]).modelpool)
    found = models.merge(Expert("cola")).backbone.state_dict()
    expected = adapted.merge_and_unload().state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A GPT-2, and for each of the seven tasks a LoRA adapter of it that holds a head."""
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    for task in ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2"]:
        labels = {"num_labels": len(GOLDEN["labels"][task]), "pad_token_id": 256}
        model = AutoModelForSequenceClassification.from_pretrained(ORACLES / "gpt2" / "base", **labels)
        config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="SEQ_CLS")
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "score" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        adapted.save_pretrained(root / task)
    return root


@pytest.fixture(scope="module")
def adapted_gpt2(adapters, data):
    tasks = sorted(path.name for path in adapters.iterdir())
    return [
        "taskpool=gpt2_glue",
        "modelpool=gpt2_glue",
        f"modelpool.base={ORACLES}/gpt2/base",
        "modelpool.dtype=float32",  # the base is stored in half precision, as which merges are rounded too
        *(f"modelpool.experts.{task}={adapters}/{task}" for task in tasks),
        *on_disk(tasks, data),
    ]


@pytest.mark.parametrize("task", ["cola", "mnli"])
def test_an_adapter_brings_its_head(adapted_gpt2, adapters, task):
    from peft import PeftModel

    report = evaluate(adapted_gpt2, Expert(task))
    assert list(report) == ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2"]
    labels = {"num_labels": len(GOLDEN["labels"][task]), "pad_token_id": 256}
    model = AutoModelForSequenceClassification.from_pretrained(ORACLES / "gpt2" / "base", **labels).float()
    model = PeftModel.from_pretrained(model, adapters / task).eval()
    tokenizer = AutoTokenizer.from_pretrained(ORACLES / "gpt2" / "base")
    with torch.inference_mode():
        texts = [[row[name] for name in row if name != "label"] for row in GOLDEN["rows"][task]]
        logits = torch.cat([model(**tokenizer(*text, return_tensors="pt")).logits for text in texts])
    samples = report.results[task].samples
    assert samples["prediction"].tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(samples["confidence"], logits.softmax(1).amax(1).numpy(), rtol=0, atol=1e-5)


def test_a_model_in_half_precision_is_measured_by_targets_that_are_not(bert):
    others = [name for name in (*BERT_TASKS, "mnli_mismatched") if name != "stsb"]
    chosen = [*bert[1], *without(others, "taskpool.tasks"), "precision=bf16-true"]
    samples = evaluate(chosen, Expert("stsb")).results["stsb"].samples
    assert samples["target"].tolist() == np.float32([row["label"] for row in GOLDEN["rows"]["stsb"]]).tolist()
    full = evaluate([*chosen, "precision=32-true"], Expert("stsb")).results["stsb"].samples
    np.testing.assert_allclose(samples["prediction"], full["prediction"], rtol=0.1, atol=0.1)
    assert samples["prediction"].tolist() != full["prediction"].tolist()
    assert samples["truncated"].tolist() == full["truncated"].tolist()


def test_texts_go_through_every_way_of_reading_batches(gpt2):
    expected = evaluate([*gpt2, "batch_size=24"])
    for change in (["batch_size=auto"], ["channels_last=true"], ["data.resident=on"], ["data.cache.mode=off"]):
        assert evaluate([*gpt2, *change]) == {task: pytest.approx(expected[task], abs=1e-5) for task in expected}
