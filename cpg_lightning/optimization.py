"""Which parameters are trained and how: learning rates and weight decay of parts of a module, and parts that are frozen."""

import math
from collections.abc import Collection, Iterable, Mapping

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer


def build_optimizer(
    module: nn.Module,
    optimizer: OptimizerCallable | None,
    lr_factors: Mapping[str, float] | None,
    decay_norms_and_biases: bool,
) -> Optimizer:
    """A new optimizer of all parameters of a module.

    The parameters are in groups by their factor and by whether their weights decay, those of factor 1 first. Where neither
    option is used, the optimizer is built from the parameters without groups.

    Args:
        module: The module.
        optimizer: Builds the optimizer from parameters or from groups of them; AdamW with its defaults if None.
        lr_factors: Factors of the learning rate by prefixes of parameters' names.
        decay_norms_and_biases: Whether parameters of one dimension have weight decay too.
    """
    build = optimizer or torch.optim.AdamW
    if not lr_factors and decay_norms_and_biases:
        return build(module.parameters())
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        decays = decay_norms_and_biases or parameter.ndim > 1
        groups.setdefault((_factor(name, lr_factors or {}), decays), []).append(parameter)
    ordered = sorted(groups, key=lambda key: (key[0] != 1, key[0], not key[1]))
    built = build(
        [
            {"params": groups[factor, decays], "lr_factor": factor, **({} if decays else {"weight_decay": 0.0})}
            for factor, decays in ordered
        ]
    )
    for group in built.param_groups:
        group["lr"] = group["lr"] * group["lr_factor"]
    return built


def base_rate(optimizer: Optimizer) -> float:
    """The present learning rate of parameters whose factor is 1, also where there are none."""
    group = optimizer.param_groups[0]
    rate: float = group["lr"]
    return rate / group.get("lr_factor", 1.0)


def freeze_parts(module: nn.Module, prefixes: Collection[str]) -> None:
    """Let some parts of a module be trained no more, and switch them to evaluation.

    Args:
        module: The module.
        prefixes: Prefixes of their parameters' names.

    Raises:
        ValueError: If a prefix is that of no parameter, or nothing is left to train.
    """
    check_prefixes(module, "freeze", prefixes)
    for name, parameter in module.named_parameters():
        if any(_begins_with(name, prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
    if prefixes and not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError(f"expected freeze to leave something to train, got {list(prefixes)}, which is all of it")
    evaluate_frozen(module, prefixes)


def evaluate_frozen(module: nn.Module, prefixes: Collection[str]) -> None:
    """Switch some parts of a module to evaluation: their BatchNorms keep their statistics, their dropout does nothing."""
    for name, part in module.named_modules():
        if any(_begins_with(name, prefix) for prefix in prefixes):
            part.training = False


def check_lr_factors(module: nn.Module, lr_factors: Mapping[str, float]) -> None:
    """Refuse factors of the learning rate that are out of range or of no parameter.

    Raises:
        ValueError: For those.
    """
    check_prefixes(module, "lr_factors", lr_factors)
    for prefix, factor in lr_factors.items():
        if not 0 < factor < math.inf:
            raise ValueError(
                f"expected the factors of lr_factors to be above 0 and finite, got {factor} for {prefix}; freeze what is not "
                f'to be trained: --model.freeze "[{prefix}]"'
            )


def check_prefixes(module: nn.Module, option: str, prefixes: Iterable[str]) -> None:
    """Refuse a prefix that no parameter's name begins with.

    Raises:
        ValueError: For such a prefix; it names what there is beside it.
    """
    names = [name for name, _ in module.named_parameters()]
    for prefix in prefixes:
        if any(_begins_with(name, prefix) for name in names):
            continue
        above = prefix
        while above and not any(name.startswith(f"{above}.") for name in names):
            above = above.rpartition(".")[0]
        above = above or "network"
        inside = [name.removeprefix(f"{above}.") for name in names if name.startswith(f"{above}.")]
        known = ", ".join(dict.fromkeys(f"{above}.{name.partition('.')[0]}" for name in inside))
        raise ValueError(
            f"expected {option} to name a part of the model that has parameters, got {prefix}; there are {known}"
        )


def _factor(name: str, lr_factors: Mapping[str, float]) -> float:
    """The factor of the longest prefix of a parameter's name; 1 if there is none."""
    longest = max((prefix for prefix in lr_factors if _begins_with(name, prefix)), key=len, default=None)
    return 1.0 if longest is None else lr_factors[longest]


def _begins_with(name: str, prefix: str) -> bool:
    """Whether a name is a prefix or in it: ``network.out`` begins ``network.out.bias``, and not ``network.output.bias``."""
    return name == prefix or name.startswith(f"{prefix}.")
