"""`fusion-eval audit=only`, and what an audit does to a run."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import torch
from safetensors.torch import load_file, save_file

EXPERTS = ("mnist", "optdigits", "scripts", "textures")


@pytest.fixture
def mnist():
    return load_file(str(files("fusion_eval.zoo") / "mnist.safetensors"))


def test_only_prints_the_audit_and_stops(fusion_eval, tmp_path):
    done = fusion_eval("audit=only", "hydra.run.dir=run")
    assert all(f"\n {name} " in done.stdout for name in ("base", *EXPERTS))
    assert "pkg://fusion_eval.zoo/mnist.safetensors" in done.stdout
    assert done.stdout.strip().endswith("4 experts can be merged")
    assert not (tmp_path / "run/report.json").exists()


def test_only_names_every_error_and_fails(fusion_eval, tmp_path, mnist):
    mnist["norm.bias"][3] = float("nan")
    save_file(mnist, tmp_path / "nan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    paths = ("modelpool.experts.mnist=nan.safetensors", "modelpool.experts.scripts=cut.safetensors")
    done = fusion_eval("audit=only", *paths, ok=False)
    text = " ".join(done.stdout.split())
    assert "error: expert 'mnist' holds NaN or Inf in norm.bias" in text
    assert "error: expert 'scripts' cannot be read: cut.safetensors: damaged" in text
    assert "textures" in text
    assert "these models cannot be merged: 2 errors" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_stops_before_the_merge_with_all_errors(fusion_eval, quick, tmp_path, mnist):
    mnist["norm.bias"][3] = float("nan")
    save_file(mnist, tmp_path / "nan.safetensors")
    paths = ("modelpool.experts.mnist=nan.safetensors", "modelpool.experts.scripts=absent.safetensors")
    done = fusion_eval(*quick, *paths, ok=False)
    assert "cannot be merged" in done.stderr
    assert "expert 'mnist' holds NaN or Inf in norm.bias" in done.stderr
    assert "absent.safetensors: no such file" in done.stderr


def test_warnings_are_shown_and_go_into_the_report(fusion_eval, quick, tmp_path, mnist):
    noise = torch.Generator().manual_seed(0)
    stranger = {name: torch.randn(tensor.shape, generator=noise) for name, tensor in mnist.items()}
    save_file(stranger, tmp_path / "stranger.safetensors")
    fewer = ("~taskpool.tasks.mnist", "~taskpool.tasks.scripts", "~taskpool.tasks.textures")
    done = fusion_eval(*quick, *fewer, "modelpool.experts.mnist=stranger.safetensors", "hydra.run.dir=run")
    warnings = json.loads((tmp_path / "run/report.json").read_text())["warnings"]
    (warning,) = (text for text in warnings if "expert 'mnist' was probably not fine-tuned from this base" in text)
    assert f"fusion-eval: warning: {warning}\n" in done.stderr


def test_another_value_is_refused(fusion_eval):
    done = fusion_eval("audit=print", ok=False)
    assert "audit: expected True, False, only; found 'print'" in done.stderr
