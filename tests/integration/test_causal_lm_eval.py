"""Perplexity, multiple choice and generation give the numbers of lm-evaluation-harness on the same model and data."""

from __future__ import annotations

import json
import random
from functools import partial

import numpy as np
import pytest
import torch

from fusion_eval import Runner
from fusion_eval.data import ChoicePrompts, CompletionPrompt, HuggingFace, TextWindows
from fusion_eval.models import MergedModel
from fusion_eval.tasks import (
    BitsPerByte,
    ChoiceAccuracy,
    Generation,
    GenerationMatch,
    LanguageModelling,
    MultipleChoice,
    Perplexity,
)

lm_eval = pytest.importorskip("lm_eval", reason="the oracle is lm-evaluation-harness")
transformers = pytest.importorskip("transformers")

WORDS = "the a cat dog house river über naïve stone walks sees finds under over green red 12 7 big".split()  # noqa: SIM905
CONTEXT = 48


def sentence(generator, most=12):
    return " ".join(generator.choice(WORDS) for _ in range(generator.randint(2, most)))


def rows(kind, n=23):
    generator = random.Random(kind)
    for index in range(n):
        if kind == "questions":
            choices = [sentence(generator, 5) for _ in range(generator.randint(2, 5))]
            letters = "ABCDE"[: len(choices)]
            # one in seven is too long for the model
            question = sentence(generator, 60 if index % 7 == 3 else 8)
            yield {
                "question": question,
                "choices": {"text": choices, "label": list(letters)},
                "answer": generator.choice(letters),
            }
        elif kind == "gaps":
            yield {
                "sentence": f"{sentence(generator)} _ {sentence(generator, 4)}",
                "option1": sentence(generator, 2),
                "option2": sentence(generator, 3),
                "answer": generator.choice("12"),
            }
        elif kind == "texts":
            yield {"page": "\n".join(sentence(generator, 40) for _ in range(generator.randint(1, 6)))}
        else:
            yield {"question": sentence(generator, 60 if index % 7 == 3 else 8), "answer": generator.choice(WORDS)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two tiny models with tokenizers of their own, and data in files that both sides read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    place = tmp_path_factory.mktemp("causal")
    for kind in ("questions", "gaps", "texts", "prompts"):
        (place / kind).mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in rows(kind))
        (place / kind / "test.jsonl").write_text(lines, encoding="utf-8")
    generator = random.Random(0)
    corpus = [sentence(generator, 30) for _ in range(200)]
    for name in ("gpt2", "llama"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        special = ["<|endoftext|>"] if name == "gpt2" else ["<s>", "</s>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
        tokenizer.train_from_iterator(corpus, trainer)
        if name == "llama":
            bos = tokenizer.token_to_id("<s>")
            tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
        fast = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[-1]
        )
        fast.save_pretrained(place / name)
        torch.manual_seed(1)
        size = len(fast)
        if name == "gpt2":
            config = transformers.GPT2Config(
                vocab_size=size, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
            )
            model = transformers.GPT2LMHeadModel(config)
        else:
            config = transformers.LlamaConfig(
                vocab_size=size,
                max_position_embeddings=CONTEXT,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                bos_token_id=0,
                eos_token_id=1,
            )
            model = transformers.LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():  # far from uniform, so that argmax is no matter of rounding
                parameter.mul_(6) if parameter.dim() > 1 else None
        model.save_pretrained(place / name)
    return place


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request, place):
    return transformers.AutoModelForCausalLM.from_pretrained(place / request.param).eval()


@pytest.fixture(scope="module")
def harness(model):
    """Runs one task of lm-evaluation-harness, given as its YAML would be."""
    import lm_eval.evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tokenizer = transformers.AutoTokenizer.from_pretrained(model.name_or_path)
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=5)

    def run(place, kind, **task):
        config = {
            "task": kind,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(place / kind / "test.jsonl")}},
            "test_split": "test",
            **task,
        }
        tasks = TaskManager(include_defaults=False).load([config])
        done = lm_eval.evaluator.evaluate(wrapped, tasks, bootstrap_iters=0)
        return done["results"][kind], sorted(done["samples"][kind], key=lambda sample: sample["doc_id"])

    return run


def evaluate(task, model, batch_size=4, **settings):
    return Runner(batch_size=batch_size, **settings).run("task", task, MergedModel(model, {}))


ACCURACIES = {
    "accuracy": ChoiceAccuracy,
    "normalised": partial(ChoiceAccuracy, by="characters"),
    "bytes": partial(ChoiceAccuracy, by="bytes"),
}


def choice_task(place, model, **settings):
    prompts = ChoicePrompts(
        model.name_or_path, "Question: {{ question }}\nAnswer:", "choices.text", labels="choices.label"
    )
    data = HuggingFace(
        str(place / "questions"),
        input=["question", "choices"],
        target="answer",
        target_type="text",
        transform=prompts,
    )
    return MultipleChoice(data, ACCURACIES, **settings)


@pytest.mark.parametrize("share", [True, False])
def test_multiple_choice(share, place, model, harness):
    expected, samples = harness(
        place,
        "questions",
        output_type="multiple_choice",
        doc_to_text="Question: {{question}}\nAnswer:",
        doc_to_target="{{choices.label.index(answer)}}",
        doc_to_choice="{{choices.text}}",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "acc_bytes"}],
    )
    found = evaluate(choice_task(place, model, share_context=share), model)
    assert found.metrics == pytest.approx(
        {
            "accuracy": expected["acc,none"],
            "normalised": expected["acc_norm,none"],
            "bytes": expected["acc_bytes,none"],
        }
    )
    lls = [[ll for ll, _ in sample["filtered_resps"]] for sample in samples]
    assert found.samples["prediction"].tolist() == [int(np.argmax(ll)) for ll in lls]
    right = [ll[target] for ll, target in zip(lls, found.samples["target"], strict=True)]
    np.testing.assert_allclose(found.samples["log_likelihood"], right, rtol=1e-5)
    assert 0 < found.samples["truncated"].sum() < found.count


def test_a_choice_in_the_context(place, model, harness):
    expected, samples = harness(
        place,
        "gaps",
        output_type="multiple_choice",
        doc_to_text="{{answer | int - 1}}",
        doc_to_target="{{sentence.split('_')[1].strip()}}",
        doc_to_choice="{{[sentence.split('_')[0] ~ option1, sentence.split('_')[0] ~ option2]}}",
        metric_list=[{"metric": "acc"}],
    )
    prompts = ChoicePrompts(
        model.name_or_path,
        context="{{ sentence.split('_')[0] }}{{ choice }}",
        choices="[option1, option2]",
        continuation=" {{ sentence.split('_')[1].strip() }}",
        labels="['1', '2']",
    )
    data = HuggingFace(
        str(place / "gaps"),
        input=["sentence", "option1", "option2"],
        target="answer",
        target_type="text",
        transform=prompts,
    )
    found = evaluate(MultipleChoice(data, ACCURACIES), model)
    assert found.metrics["accuracy"] == pytest.approx(expected["acc,none"])
    right = [
        sample["filtered_resps"][target][0] for sample, target in zip(samples, found.samples["target"], strict=True)
    ]
    np.testing.assert_allclose(found.samples["log_likelihood"], right, rtol=1e-5)


def test_perplexity(place, model, harness):
    expected, samples = harness(
        place,
        "texts",
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{page}}",
        metric_list=[{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    )
    task = LanguageModelling(
        TextWindows(model.name_or_path, str(place / "texts"), column="page"),
        {
            "word": partial(Perplexity, per="word"),
            "byte": partial(Perplexity, per="byte"),
            "bits": BitsPerByte,
        },
    )
    found = evaluate(task, model)
    assert found.metrics == pytest.approx(
        {
            "word": expected["word_perplexity,none"],
            "byte": expected["byte_perplexity,none"],
            "bits": expected["bits_per_byte,none"],
        },
        rel=1e-5,
    )
    nats = np.bincount(found.samples["group"], weights=found.samples["nats"])
    np.testing.assert_allclose(-nats, [sample["filtered_resps"][0] for sample in samples], rtol=1e-5)
    assert found.count > len(samples)


@pytest.mark.parametrize("stop", [[], ["the", " r"]])
def test_generation(stop, place, model, harness):
    expected, samples = harness(
        place,
        "prompts",
        output_type="generate_until",
        doc_to_text="Say: {{question}}",
        doc_to_target="{{answer}}",
        generation_kwargs={"until": list(stop), "max_gen_toks": 9, "do_sample": False},
        filter_list=[
            {
                "name": "word",
                "filter": [
                    {"function": "regex", "regex_pattern": "[a-z]+", "group_select": -1},
                    {"function": "take_first"},
                ],
            }
        ],
        metric_list=[{"metric": "exact_match", "ignore_case": True}],
    )
    prompt = CompletionPrompt(model.name_or_path, "Say: {{ question }}", max_new_tokens=9)
    data = HuggingFace(
        str(place / "prompts"), input=["question"], target="answer", target_type="text", transform=prompt
    )
    task = Generation(data, {"match": GenerationMatch}, stop=stop, extract="[a-z]+", take="last", ignore_case=True)
    found = evaluate(task, model)
    assert found.samples["completion"].tolist() == [sample["resps"][0][0] for sample in samples]
    assert found.metrics["match"] == pytest.approx(expected["exact_match,word"])
    assert 0 < found.samples["truncated"].sum() < found.count
