"""Learning rates and weight decay of parts of a module, and frozen parts."""

import math
from collections.abc import Collection, Iterable, Mapping

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer

DEFAULT_OPTIMIZER = torch.optim.AdamW


def build_optimizer(
    module: nn.Module,
    optimizer: OptimizerCallable | None,
    lr_factors: Mapping[str, float] | None,
    decay_norms_and_biases: bool,
) -> Optimizer:
    """Build an optimizer of all parameters of a module.

    Parameters with the same factor and the same weight decay form a group. Groups of factor 1 come first. If neither option
    is used, the optimizer is built from the parameters without groups.

    Args:
        module: The module.
        optimizer: Callable that builds the optimizer from parameters or groups; AdamW with its defaults if None.
        lr_factors: Factors of the learning rate by prefixes of parameter names.
        decay_norms_and_biases: Whether weight decay also applies to parameters of one dimension.
    """
    build = optimizer or DEFAULT_OPTIMIZER
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


def base_lr(optimizer: Optimizer) -> float:
    """Return the current learning rate of a parameter with factor 1, even if no parameter has this factor."""
    group = optimizer.param_groups[0]
    rate: float = group["lr"]
    return rate / group.get("lr_factor", 1.0)


def freeze_parts(module: nn.Module, prefixes: Collection[str]) -> None:
    """Freeze parts of a module: exclude them from training, and switch them to evaluation mode.

    Args:
        module: The module.
        prefixes: Prefixes of parameter names.

    Raises:
        ValueError: If a prefix matches no parameter, or no parameter is left to train.
    """
    check_prefixes(module, "freeze", prefixes)
    for name, parameter in module.named_parameters():
        if any(_begins_with(name, prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
    if prefixes and not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError(
            f"expected freeze to leave parameters to train, got {list(prefixes)}, which freezes all of them"
        )
    evaluate_frozen(module, prefixes)


def evaluate_frozen(module: nn.Module, prefixes: Collection[str]) -> None:
    """Switch parts of a module to evaluation mode: BatchNorm keeps its statistics, and dropout is off."""
    for name, part in module.named_modules():
        if any(_begins_with(name, prefix) for prefix in prefixes):
            part.training = False


def check_lr_factors(module: nn.Module, lr_factors: Mapping[str, float]) -> None:
    """Check factors of the learning rate.

    Raises:
        ValueError: If a factor is out of range, or a prefix matches no parameter.
    """
    check_prefixes(module, "lr_factors", lr_factors)
    for prefix, factor in lr_factors.items():
        if not 0 < factor < math.inf:
            raise ValueError(
                f"expected the factors of lr_factors to be above 0 and finite, got {factor} for {prefix}; to exclude a part from "
                f'training, freeze it: --model.freeze "[{prefix}]"'
            )


def check_prefixes(module: nn.Module, option: str, prefixes: Iterable[str]) -> None:
    """Check that each prefix matches a parameter name.

    Raises:
        ValueError: If a prefix matches none. The message lists existing parts of the model.
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
            f"expected {option} to name a part of the model that has parameters, got {prefix}; the parts are {known}"
        )


def _factor(name: str, lr_factors: Mapping[str, float]) -> float:
    """Return the factor of the longest prefix that matches a parameter name; 1 if none matches."""
    longest = max((prefix for prefix in lr_factors if _begins_with(name, prefix)), key=len, default=None)
    return 1.0 if longest is None else lr_factors[longest]


def _begins_with(name: str, prefix: str) -> bool:
    """Whether a prefix of whole components matches: ``network.out`` matches ``network.out.bias``, not ``network.output``."""
    return name == prefix or name.startswith(f"{prefix}.")
