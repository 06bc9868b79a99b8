from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusion_eval.models import CLIPTextTower, ZeroShotHead
from fusion_eval.models.clip.head_store import head_directory, stored_or_built

TENSORS = {"class_embeddings": torch.eye(3), "scale": torch.tensor(2.5)}
CONTEXT = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class CountedTower(CLIPTextTower):
    """Says how often it was read."""

    reads = 0

    def load(self):
        CountedTower.reads += 1
        return super().load()


def stored(cache):
    return sorted(cache.rglob("*.safetensors"))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def head(checkpoint):
    CountedTower.reads = 0
    return ZeroShotHead(CountedTower(str(checkpoint)), ["cat", "dog"], ["a {}.", "the {}."])


def test_the_second_use_reads_what_the_first_built(head, cache):
    first, second = head.load().state_dict(), head.load().state_dict()
    assert CountedTower.reads == 1
    assert equal(first, second)
    assert len(stored(cache)) == 1


def test_where_the_checkpoint_lies_does_not_matter(head, checkpoint, cache):
    head.load()
    checkpoint.rename(checkpoint.with_name("moved"))
    replace(head, text_tower=CountedTower(str(checkpoint.with_name("moved")))).load()
    assert CountedTower.reads == 1


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["cat", "fox"]},
        {"classes": ["dog", "cat"]},
        {"templates": ["a {}."]},
        {"classes": ["cat", "dog"], "templates": ["the {}.", "a {}."]},
    ],
)
def test_other_prompts_are_another_head(head, cache, change):
    head.load()
    replace(head, **change).load()
    assert len(stored(cache)) == CountedTower.reads == 2


def test_another_vision_encoder_is_the_same_head(head, checkpoint, cache):
    head.load()
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "vision_model.post_layernorm.bias": torch.ones(32)}, file)
    head.load()
    assert len(stored(cache)) == CountedTower.reads == 1


@pytest.mark.parametrize("name", ["text_projection.weight", "visual_projection.weight", "logit_scale"])
def test_another_tensor_is_another_head(head, checkpoint, cache, name):
    before = head.load().state_dict()
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name] + torch.randn_like(tensors[name])}, file)
    assert not equal(head.load().state_dict(), before)
    assert len(stored(cache)) == CountedTower.reads == 2


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_another_configuration_or_tokenizer_is_another_head(head, checkpoint, cache, name):
    head.load()
    file = checkpoint / name
    file.write_text(file.read_text() + "\n")
    head.load()
    assert len(stored(cache)) == CountedTower.reads == 2


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"garbage",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        flipped,
        lambda content: content[:-1] + bytes([content[-1] ^ 128]),
    ],
    ids=["empty", "garbage", "one byte short", "half", "flipped bit", "last bit"],
)
def test_a_damaged_file_is_built_anew(head, cache, caplog, damage):
    before = head.load().state_dict()
    [file] = stored(cache)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert equal(head.load().state_dict(), before)
    assert CountedTower.reads == 2
    assert "is damaged and built anew" in caplog.text
    assert file.read_bytes() == whole


def test_a_file_of_someone_else_is_built_anew(cache, caplog):
    stored_or_built("ab12", lambda: TENSORS)
    [file] = stored(cache)
    save_file({"class_embeddings": torch.zeros(3, 3)}, file)
    assert equal(stored_or_built("ab12", lambda: TENSORS), TENSORS)
    assert "its content is not what was written" in caplog.text


def slow(log):
    with log.open("a") as file:
        file.write("built\n")
    time.sleep(0.3)
    return TENSORS


def use(log, barrier):
    barrier.wait()
    assert equal(stored_or_built("ab12", lambda: slow(log)), TENSORS)


def test_of_processes_that_need_the_same_head_one_builds_it(tmp_path, cache):
    log, barrier = tmp_path / "log", CONTEXT.Barrier(3)
    processes = [CONTEXT.Process(target=use, args=(log, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "built\n"
    assert len(stored(cache)) == 1


def test_a_process_that_is_killed_while_it_builds_leaves_nothing_behind(tmp_path, cache):
    process = CONTEXT.Process(target=stored_or_built, args=("ab12", lambda: os._exit(9)))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert stored(cache) == []
    assert equal(stored_or_built("ab12", lambda: TENSORS), TENSORS)


def test_an_error_while_building_is_not_kept(cache):
    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        stored_or_built("ab12", fail)
    assert stored(cache) == []
    assert equal(stored_or_built("ab12", lambda: TENSORS), TENSORS)


def test_a_cache_that_cannot_be_written_costs_no_run(cache, caplog):
    cache.write_text("a file where the directory should be")
    assert equal(stored_or_built("ab12", lambda: TENSORS), TENSORS)
    assert "heads are built again" in caplog.text


def test_the_store_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSION_EVAL_CACHE", "~/mine")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(head_directory()) == "/home/me/mine/heads"
    monkeypatch.delenv("FUSION_EVAL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert str(head_directory()) == "/home/me/.cache/fusion_eval/heads"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(head_directory()) == "/xdg/fusion_eval/heads"
