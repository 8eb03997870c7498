"""Parts of a model with a learning rate of their own, without weight decay, or not trained at all."""

import csv
import functools
import os
from pathlib import Path

import lightning as L
import pytest
import torch
from commands import ARGUMENTS, fails, in_a_process
from tiny import Tiny, trainer_of
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR

from cpg_lightning.cli import main
from cpg_lightning.data import Augmentation, CamVidDataModule
from cpg_lightning.losses import CrossEntropyCPGLoss
from cpg_lightning.module import SegmentationModule
from cpg_lightning.networks import LRASPP, SegmentationNetwork

SGD = functools.partial(torch.optim.SGD, lr=0.1, weight_decay=0.01)


class Parts(SegmentationNetwork):
    """A backbone with a norm and dropout, and a head."""

    def __init__(self, num_classes=11):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Conv2d(4, num_classes, 1)

    def forward(self, images):
        return {"out": self.head(self.backbone(images))}


def module_of(network=None, **options):
    torch.manual_seed(0)
    options = {"optimizer": SGD, **options}
    return SegmentationModule(network or Parts(), CrossEntropyCPGLoss(), CamVidDataModule.classes, **options)


def fit(camvid, module, ckpt_path=None, **options):
    L.seed_everything(0)
    data = CamVidDataModule(camvid, Augmentation((24, 32)), batch_size=2, num_workers=0)
    trainer = trainer_of(**{"limit_val_batches": 0, **options})
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def option_of(module, trainer, option):
    """An option of the optimizer by the name of each parameter."""
    names = {parameter: name.removeprefix("network.") for name, parameter in module.named_parameters()}
    return {names[p]: group[option] for group in trainer.optimizers[0].param_groups for p in group["params"]}


class TestFactors:
    def test_the_longest_prefix_applies(self, camvid):
        factors = {"network": 2, "network.backbone": 0.5, "network.backbone.1.bias": 4}
        module = module_of(lr_factors=factors, lr_schedule="constant")
        rates = option_of(module, fit(camvid, module), "lr")
        assert {name: pytest.approx(rate) for name, rate in rates.items()} == {
            **dict.fromkeys(("backbone.0.weight", "backbone.0.bias", "backbone.1.weight"), 0.05),
            "backbone.1.bias": 0.4,
            **dict.fromkeys(("head.weight", "head.bias"), 0.2),
        }

    def test_a_prefix_ends_at_a_dot(self, camvid):
        class Alike(Parts):
            def __init__(self):
                super().__init__()
                self.head2 = self.head
                self.head = nn.Conv2d(4, 11, 1)

            def forward(self, images):
                features = self.backbone(images)
                return {"out": self.head(features) + self.head2(features)}

        module = module_of(Alike(), lr_factors={"network.head": 10})
        rates = option_of(module, fit(camvid, module, max_steps=1), "initial_lr")
        assert (rates["head.weight"], rates["head2.weight"]) == (pytest.approx(1), pytest.approx(0.1))

    @pytest.mark.parametrize("lr_factors", [{"network.head": 10}, {"network.backbone": 0.1}, {"network": 10}])
    def test_the_logged_rate_has_no_factor(self, camvid, lr_factors):
        plain, scaled = (
            fit(camvid, module_of(lr_factors=factors, warmup_steps=2)).callback_metrics["lr"]
            for factors in (None, lr_factors)
        )
        torch.testing.assert_close(scaled, plain)

    @pytest.mark.parametrize(
        ("lr_schedule", "warmup_steps", "rate"),
        [("constant", 4, 0.075), (functools.partial(ExponentialLR, gamma=0.5), 0, 0.025)],
        ids=["warm-up", "torch"],
    )
    def test_every_schedule_keeps_the_factors(self, camvid, lr_schedule, warmup_steps, rate):
        schedule = {"lr_schedule": lr_schedule, "warmup_steps": warmup_steps}
        module = module_of(lr_factors={"network.head": 10}, **schedule)
        rates = option_of(module, fit(camvid, module, max_steps=2), "lr")
        assert rates["backbone.0.weight"] == pytest.approx(rate)
        assert rates["head.bias"] == pytest.approx(10 * rate)

    def test_a_factor_scales_the_step(self, camvid):
        """Plain gradient descent: ten times the rate moves ten times as far."""
        plain = functools.partial(torch.optim.SGD, lr=0.01)
        start = module_of(optimizer=plain).state_dict()
        moved = []
        for factors in (None, {"network.head": 10}):
            module = module_of(optimizer=plain, lr_factors=factors)
            fit(camvid, module, max_steps=1)
            moved.append({name: value - start[name] for name, value in module.state_dict().items()})
        assert moved[0]["network.head.weight"].abs().max() > 1e-4
        torch.testing.assert_close(moved[1]["network.head.weight"], 10 * moved[0]["network.head.weight"])
        torch.testing.assert_close(moved[1]["network.backbone.0.weight"], moved[0]["network.backbone.0.weight"])

    def test_a_scheduler_that_overrides_the_factors_is_refused(self, camvid):
        cycle = functools.partial(OneCycleLR, max_lr=0.1, total_steps=6)
        with pytest.raises(
            ValueError, match=r"expected a schedule that keeps the ratios .*, got OneCycleLR, .*2 learning rates"
        ):
            fit(camvid, module_of(lr_factors={"network.head": 10}, lr_schedule=cycle))
        both = functools.partial(OneCycleLR, max_lr=[0.1, 1.0], total_steps=6)
        assert fit(camvid, module_of(lr_factors={"network.head": 10}, lr_schedule=both)).global_step == 6

    def test_a_resumed_training_keeps_the_factors(self, camvid):
        options = {"lr_factors": {"network.head": 10}, "decay_norms_and_biases": False, "lr_schedule": "constant"}
        fit(camvid, module_of(**options), max_epochs=1).save_checkpoint("first.ckpt")
        resumed = module_of(**options)
        trainer = fit(camvid, resumed, "first.ckpt")
        assert (trainer.global_step, trainer.current_epoch) == (6, 2)
        assert option_of(resumed, trainer, "lr_factor") == {
            **dict.fromkeys(("backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"), 1),
            **dict.fromkeys(("head.weight", "head.bias"), 10),
        }


class TestWeightDecay:
    def test_norms_and_biases_can_be_excluded(self, camvid):
        module = module_of(decay_norms_and_biases=False)
        decays = option_of(module, fit(camvid, module, max_steps=1), "weight_decay")
        assert {name for name, decay in decays.items() if decay} == {"backbone.0.weight", "head.weight"}

    def test_the_exclusion_works_with_factors(self, camvid):
        module = module_of(decay_norms_and_biases=False, lr_factors={"network.head": 10})
        trainer = fit(camvid, module, max_steps=1)
        assert option_of(module, trainer, "weight_decay")["head.bias"] == 0
        assert option_of(module, trainer, "initial_lr")["head.bias"] == pytest.approx(1)
        assert len(trainer.optimizers[0].param_groups) == 4

    def test_by_default_all_parameters_are_one_group(self, camvid):
        (group,) = fit(camvid, module_of(), max_steps=1).optimizers[0].param_groups
        assert (len(group["params"]), group["weight_decay"]) == (6, 0.01)


class TestFreeze:
    def test_frozen_parts_keep_their_weights_and_statistics(self, camvid):
        module = module_of(freeze=["network.backbone"])
        before = {name: value.clone() for name, value in module.state_dict().items()}
        fit(camvid, module, limit_val_batches=1.0, num_sanity_val_steps=1)  # which also switches modes
        changed = {name for name, value in module.state_dict().items() if not value.equal(before[name])}
        assert changed == {"network.head.weight", "network.head.bias"}

    def test_frozen_parts_stay_in_evaluation_mode(self):
        module = module_of(freeze=["network.backbone"])
        for mode in (True, False, True):
            module.train(mode)
            assert module.network.head.training == mode
            assert not any(part.training for part in module.network.backbone.modules())

    def test_a_single_parameter_can_be_frozen(self, camvid):
        module = module_of(freeze=["network.head.bias"])
        bias, weight = (module.network.get_parameter(f"head.{name}").clone() for name in ("bias", "weight"))
        fit(camvid, module, max_steps=1)
        assert module.network.head.bias.equal(bias)
        assert not module.network.head.weight.equal(weight)

    def test_the_backbone_of_a_real_network_is_frozen(self):
        module = module_of(LRASPP(11), freeze=["network.backbone"])
        images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        module.train()(images)["out"].sum().backward()
        trained = {name.split(".")[1] for name, each in module.named_parameters() if each.grad is not None}
        assert trained == {"classifier"}
        assert {int(buffer) for name, buffer in module.named_buffers() if "backbone" in name and "num_b" in name} == {0}

    @pytest.mark.slow
    def test_two_processes_train_the_parts_that_are_not_frozen(self, camvid, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        network = [
            "--model.network=LRASPP",
            "--model.freeze=[network.backbone]",
            "--data.augmentation.crop_size=[64,64]",
        ]
        processes = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.limit_val_batches=0"]
        in_a_process("fit", *ARGUMENTS, *network, *processes, "--output=run", "--trainer.max_epochs=1")
        with Path("run/metrics.csv").open() as file:
            assert any(row["train/loss"] for row in csv.DictReader(file))


class TestErrors:
    @pytest.mark.parametrize("option", ["lr_factors", "freeze"])
    @pytest.mark.parametrize(
        ("prefix", "known"),
        [
            ("backbone", "network.backbone, network.head"),
            ("network.classifier", "network.backbone, network.head"),
            ("network.backbone.7.weight", "network.backbone.0, network.backbone.1"),
            ("network.hea", "network.backbone, network.head"),
        ],
    )
    def test_an_unknown_prefix_is_refused_with_the_known_ones(self, option, prefix, known):
        given = {prefix: 2} if option == "lr_factors" else [prefix]
        with pytest.raises(
            ValueError, match=f"expected {option} to name a part .*, got {prefix}; the parts are {known}$"
        ):
            module_of(**{option: given})

    @pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
    def test_a_factor_out_of_range_is_refused(self, factor):
        with pytest.raises(ValueError, match=f"above 0 and finite, got {factor} for network.head"):
            module_of(lr_factors={"network.head": factor})

    def test_freezing_all_parameters_is_refused(self):
        with pytest.raises(ValueError, match="expected freeze to leave parameters to train"):
            module_of(freeze=["network"])


class TestCommand:
    def test_the_options_are_a_mapping_and_a_list(self, camvid):
        given = ["--model.lr_factors={network.out: 10, network.out.bias: 20}", "--model.freeze=[network.out.bias]"]
        module = main([*ARGUMENTS, *given, "--model.decay_norms_and_biases=false"], run=False).model
        assert module.lr_factors == {"network.out": 10, "network.out.bias": 20}
        assert [name for name, each in module.named_parameters() if not each.requires_grad] == ["network.out.bias"]
        assert not module.decay_norms_and_biases

    def test_a_mistyped_part_is_named_before_a_folder_exists(self, camvid, monkeypatch, capsys):
        shown = fails(monkeypatch, capsys, "fit", *ARGUMENTS, "--model.lr_factors={network.outt: 10}")
        assert shown.startswith(
            "cpg: expected lr_factors to name a part of the model that has parameters, got network.outt; "
        )
        assert "the parts are network.out\n" in shown
        assert not Path("runs").exists()


def test_a_module_loaded_for_evaluation_has_no_frozen_parts(camvid):
    trainer = fit(camvid, module_of(Tiny(11), lr_factors={"network.out": 10}, freeze=["network.out.bias"]))
    trainer.save_checkpoint("frozen.ckpt")
    loaded = SegmentationModule.load_from_checkpoint("frozen.ckpt", network=Tiny(11))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
