"""The training step on an accelerator, in half precision, in parts, with deterministic algorithms and compiled."""

import os
import shutil

import pytest
import torch
import torch._dynamo.testing
from conftest import simulated
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from simulated_device import DEVICE
from steps import CLASSES, Simulated, Waits, module_of
from tiny import Tiny, trainer_of

from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule

# That torch.use_deterministic_algorithms documents to raise on a GPU, out of those that a loss could come to.
NOT_DETERMINISTIC = {
    "aten::nll_loss2d_forward",
    "aten::nll_loss2d_backward",
    "aten::upsample_bilinear2d_backward",
    "aten::upsample_bicubic2d_backward",
    "aten::grid_sampler_2d_backward",
    "aten::histc",
    "aten::kthvalue",
    "aten::median",
    "aten::put_",
}


class Traced(Tiny):
    """A network whose graphs are not turned into machine code, which takes long, and which counts what is not compiled."""

    python = 0

    def compile(self):
        super().compile(backend="eager", fullgraph=True)

    def forward(self, images):
        if not torch.compiler.is_compiling():
            self.python += 1
        return super().forward(images)


def test_a_step_waits_for_the_device_only_in_the_criterion(batches):
    with simulated() as counted:
        waits = Waits(counted)
        strategy = SingleDeviceStrategy(device=DEVICE)
        trainer = trainer_of(max_epochs=1, accelerator=Simulated(), strategy=strategy, callbacks=[waits])
        trainer.fit(module_of(), batches)
    assert len(waits.steps) == 3
    for step in waits.steps:
        assert {place.split(":")[0] for _, place in step} == {"fused/boundary.py"}
        assert step.total() <= 4
    assert {"lr", "train/loss", "train/ce", "train/cpg", "train/aux"} <= trainer.callback_metrics.keys()
    assert "aten::index_add_" in waits.operators
    assert not waits.operators & NOT_DETERMINISTIC


def test_the_learning_rate_is_logged_as_a_tensor_on_the_device(batches):
    class Logged(Callback):
        def on_train_batch_end(self, trainer, *args):
            rate = trainer.callback_metrics["lr"]
            assert (rate.device, rate.dtype) == (DEVICE, torch.float32)
            rates.append(rate.item())

        def on_train_batch_start(self, trainer, *args):
            expected.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates, expected = [], []
    with simulated():
        strategy = SingleDeviceStrategy(device=DEVICE)
        trainer_of(max_epochs=1, accelerator=Simulated(), strategy=strategy, callbacks=[Logged()]).fit(
            module_of(), batches
        )
    assert rates == pytest.approx(expected)
    assert len(set(rates)) == 4


@pytest.fixture
def accelerator(device):
    """The device by Lightning's name."""
    if device.type == "simulated":
        pytest.skip("Lightning does not know the simulated device, whose autocast changes nothing")
    return device.type


def fitted(batches, kind=Tiny, compile_network=False, lr_schedule="poly", **options):
    """Trains for the batches on one device; gives the module and the Trainer."""
    module = module_of(kind, compile_network=compile_network, lr_schedule=lr_schedule)
    trainer = trainer_of(**{"max_epochs": 1, "devices": 1, **options})
    trainer.fit(module, batches)
    return module, trainer


class TestCompiled:
    @pytest.mark.parametrize("compiled", [False, True])
    def test_a_checkpoint_continues_compiled_or_not(self, batches, compiled):
        _, trainer = fitted(batches, Traced, compile_network=compiled, lr_schedule="constant")
        trainer.save_checkpoint("half.ckpt")
        modules = [module_of(Traced, compile_network=told, lr_schedule="constant") for told in (compiled, not compiled)]
        for module in modules:
            trainer_of(max_epochs=2).fit(module, batches, ckpt_path="half.ckpt")
        assert [module.network.python > 0 for module in modules] == [not compiled, compiled]
        same, crossed = (module.state_dict() for module in modules)
        assert list(same) == list(crossed)
        for name, value in same.items():
            torch.testing.assert_close(crossed[name], value)

    def test_a_checkpoint_of_a_compiled_network_is_loaded_without_compiling(self, batches):
        module, trainer = fitted(batches, Traced, compile_network=True)
        trainer.save_checkpoint("compiled.ckpt")
        loaded = SegmentationModule.load_from_checkpoint("compiled.ckpt", network=Traced(CLASSES, aux_loss=True))
        images = next(iter(batches))["image"]
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), module(images))
        assert (module.network.python, loaded.network.python) == (0, 1)

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch compiles by a C++ compiler")
    def test_the_compiler_of_torch_gives_the_same_network(self, batches):
        module, trainer = fitted(batches, compile_network=True)
        trainer.save_checkpoint("compiled.ckpt")
        loaded = SegmentationModule.load_from_checkpoint("compiled.ckpt", network=Tiny(CLASSES, aux_loss=True))
        expected, _ = fitted(batches)
        images = next(iter(batches))["image"]
        with torch.no_grad():
            for other in (loaded, expected):
                torch.testing.assert_close(other(images), module(images))

    def test_a_criterion_that_is_compiled_with_the_network_is_left_out(self, batches):
        def loss(images, mask):
            logits = network(images)
            return criterion(logits["out"], mask) + criterion.auxiliary(logits["aux"], mask)

        network, criterion, batch = Tiny(CLASSES, aux_loss=True), CrossEntropyCPGLoss(), next(iter(batches))
        graphs = torch._dynamo.testing.CompileCounter()
        arguments = batch["image"].float(), batch["mask"]
        compiled = torch.compile(loss, backend=graphs)(*arguments)
        torch.testing.assert_close(compiled, loss(*arguments))
        gradients = (torch.autograd.grad(each, network.parameters()) for each in (compiled, loss(*arguments)))
        torch.testing.assert_close(*gradients)
        assert graphs.frame_count == 2  # the network, and the sum


class TestDistributed:
    @pytest.mark.filterwarnings("error:It is recommended to use")
    def test_two_processes_log_the_scores_of_one_without_advice(self, batches):
        if torch.cuda.is_initialized():
            pytest.skip("Lightning does not fork a process that has used a GPU")
        alone, together = (
            trainer_of(devices=devices, strategy=strategy).validate(module_of(), batches, verbose=False)[0]
            for devices, strategy in ((1, "auto"), (2, "ddp_fork"))
        )
        assert together == pytest.approx(alone, nan_ok=True)
        assert "val/boundary_IoU" in together

    @pytest.mark.filterwarnings("error:It is recommended to use")
    def test_a_compiled_network_learns_the_same_in_ddp(self, batches):
        expected, _ = fitted(batches)
        options = {"strategy": "ddp", "use_distributed_sampler": False}
        module, _ = fitted(batches, Traced, compile_network=True, **options)
        assert module.network.python == 0
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(module.state_dict()[name], value)


class Types(Tiny):
    """A network that notes the types of its logits, one of which may be infinite."""

    infinite_at = None

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.types = []

    def forward(self, images):
        logits = super().forward(images)
        self.types.append(logits["out"].dtype)
        return {**logits, "out": logits["out"] * torch.inf} if len(self.types) == self.infinite_at else logits


class Overflowing(Types):
    """A network whose second logits are too large for half precision."""

    infinite_at = 2


def test_a_scaled_loss_in_half_precision_trains_as_in_full_precision(batches, accelerator):
    expected, _ = fitted(batches, accelerator=accelerator)
    scaled = MixedPrecision("16-mixed", accelerator)
    module, _ = fitted(batches, Types, accelerator=accelerator, plugins=[scaled])
    assert module.network.types == 4 * [torch.float16]
    assert scaled.scaler.get_scale() == 65536  # no step was left out
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=0, atol=2e-4)  # they move by up to 0.04


def test_a_step_that_overflows_is_left_out_and_halves_the_scale(batches, accelerator):
    scaled = MixedPrecision("16-mixed", accelerator)
    module, _ = fitted(batches, Overflowing, accelerator=accelerator, plugins=[scaled])
    assert scaled.scaler.get_scale() == 32768
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_bfloat16_trains_about_as_full_precision(batches, accelerator):
    expected, _ = fitted(batches, accelerator=accelerator)
    module, _ = fitted(batches, Types, accelerator=accelerator, precision="bf16-mixed")
    assert module.network.types == 4 * [torch.bfloat16]
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=0, atol=1e-3)


def test_deterministic_training_repeats_itself(batches, accelerator):
    try:
        first, second = (fitted(batches, accelerator=accelerator, deterministic=True)[0] for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_accumulated_batches_take_the_step_of_their_mean_loss(batches):
    module, trainer = fitted(batches, accumulate_grad_batches=4)
    expected = module_of()
    losses = []
    for batch in batches:
        logits = expected(batch["image"])
        aux = expected.criterion.auxiliary(logits["aux"], batch["mask"])
        losses.append(expected.criterion(logits["out"], batch["mask"]) + 0.4 * aux)
    (sum(losses) / 4).backward()
    assert trainer.global_step == 1
    for found, parameter in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, parameter - 0.1 * parameter.grad)
