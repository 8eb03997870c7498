"""The kernels of a GPU have value and gradient of the pass over rows, which has those of the definition."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cpg_lightning import CrossEntropyCPGLoss
from cpg_lightning.losses.fused import gpu
from cpg_lightning.losses.fused.rows import Options

PROGRAM = Path(__file__).with_name("interpreted_kernels.py")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch for CUDA")
FEW = ["a stride that is no integer", "logits at target size", "hard examples"]
MORE = [
    "aligned corners",
    "logits larger than the target",
    "bfloat16, channels last",
    "a kernel of 5 pixels",
    "no boundaries of void",
    "label smoothing and class weights",
    "the value alone",
    "cross-entropy alone",
    "infinite logits",
]


@needs_triton
@pytest.mark.parametrize("cases", [FEW, pytest.param(MORE, marks=pytest.mark.slow)], ids=["few", "more"])
def test_the_kernels_equal_the_pass_over_rows(cases):
    pytest.importorskip("triton", "3.8", reason="interpreters of before fail with NumPy 2.4 and later")
    # A process of its own: Triton asks for the variable when it is imported.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, PROGRAM, *cases]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    differences = json.loads(result.stdout)
    assert list(differences) == cases
    assert {name: values for name, values in differences.items() if max(values) > 1e-6} == {}


@needs_triton
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("normalise", {"SMOOTH": True, "PIXELS": gpu.PIXELS}),
        (
            "compare",
            {"SIZE": 3, "DENOMINATOR": 2, "VOID_BORDERS": True, "WITH_GRADIENT": True, "SIDE": 16},
        ),
        ("collect", {"SMOOTH": True, "WITH_CPG": True, "CELLS": gpu.CELLS, "CLASSES": gpu.CLASSES}),
    ],
)
def test_the_kernels_compile_for_a_gpu(name, options, monkeypatch):
    # The interpreter accepts more than the compiler.
    monkeypatch.setenv("TRITON_CACHE_DIR", "triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from cpg_lightning.losses.fused import kernels

    kernel, constants = getattr(kernels, name), {"ALIGN_CORNERS": False, "SAME_SIZE": False, **options}
    pointers = {"logits": "*bf16", "classes": "*i64", "target": "*i64", "entries": "*i32"}
    types = {each: "i32" for each in kernels.SIZES} | pointers | dict.fromkeys(constants, "constexpr")
    signature = {argument: types.get(argument, "*fp32") for argument in kernel.arg_names}
    compiled = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 80, 32))
    assert compiled.asm["cubin"]


def test_the_kernels_are_for_gpus():
    assert not gpu.has_kernels(torch.zeros(1, 2, 2, 2), Options(255))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
class TestOnAGPU:
    def test_the_kernels_compute_the_loss_without_a_wait(self):
        logits = torch.randn(2, 5, 16, 16, device="cuda", requires_grad=True)
        target = torch.randint(0, 5, (2, 64, 64), device="cuda")
        criterion = CrossEntropyCPGLoss()
        criterion(logits, target).backward()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            criterion(logits, target).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"kernel_size": 5},
            {"kernel_size": 7},
            {"void_borders": False},
            {"label_smoothing": 0.1},
            {"ohem_threshold": 0.3, "ohem_min_kept": 100},
            {"cpg_weight": 0.0},
        ],
        ids=str,
    )
    @pytest.mark.parametrize(
        ("shape", "stride"), [((2, 19, 128, 256), 4), ((1, 150, 130, 130), 8), ((2, 5, 64, 64), 1)]
    )
    def test_value_and_gradient_equal_those_in_float64(self, options, shape, stride):
        torch.manual_seed(0)
        images, classes, height, width = shape
        logits = 3 * torch.randn(images, classes, -(-height // stride), -(-width // stride), device="cuda")
        target = torch.randint(0, classes, (images, height // 4, width // 4), device="cuda")
        target = target.repeat_interleave(5, 1).repeat_interleave(5, 2)[:, :height, :width]
        target[torch.rand(target.shape, device="cuda") < 0.05] = 255
        criterion = CrossEntropyCPGLoss(**options, class_weights=torch.rand(classes, dtype=torch.float64).tolist())
        results = []
        for dtype in (torch.float32, torch.float64):
            leaf = logits.to(dtype).requires_grad_()
            loss = criterion(leaf, target)
            results.append((*criterion.terms.values(), *torch.autograd.grad(loss, leaf)))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-7)

    def test_a_gpu_without_triton_has_the_same_loss_and_one_warning(self, monkeypatch):
        logits = torch.randn(1, 3, 4, 4, device="cuda")
        target = torch.randint(0, 3, (1, 16, 16), device="cuda")
        expected = CrossEntropyCPGLoss()(logits, target)

        def fail(*arguments):
            raise RuntimeError("no compiler")

        monkeypatch.setattr(gpu, "cross_entropy_cpg", fail)
        gpu.can_compile.cache_clear()
        with pytest.warns(UserWarning, match="Triton does not work on .* no compiler"):
            found = CrossEntropyCPGLoss()(logits, target)
        torch.testing.assert_close(found, expected)
        gpu.can_compile.cache_clear()

    def test_deterministic_algorithms_are_respected(self):
        logits = torch.randn(2, 7, 32, 32, device="cuda", requires_grad=True)
        target = torch.randint(0, 7, (2, 128, 128), device="cuda")
        torch.use_deterministic_algorithms(True)
        try:
            assert not gpu.has_kernels(logits, Options(255))
            first, second = (torch.autograd.grad(CrossEntropyCPGLoss()(logits, target), logits)[0] for _ in range(2))
        finally:
            torch.use_deterministic_algorithms(False)
        assert torch.equal(first, second)
