"""What an operator would cost on an accelerator: launches, waits of the host, bytes read and written."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

LAUNCH_SECONDS = 5e-6
BYTES_A_SECOND = 4.3e12

# Kernels that CUDA launches for one operator, where they are more than one: estimates from ATen/native/cuda.
LAUNCHES = {
    "aten::bincount": 4,
    "aten::cumsum": 2,
    "aten::index_put": 2,
    "aten::index_put_": 2,
    "aten::nonzero": 3,
    "aten::repeat_interleave": 3,
    "aten::sort": 4,
}
MASK_LAUNCHES = 4  # a boolean index is turned into integers first

# Operators that only allocate memory, or give another view of what is there though their schema does not say so.
NO_LAUNCH = {
    "aten::_reshape_alias",
    "aten::_unsafe_view",
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::is_same_size",
    "aten::lift_fresh",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::resize_",
    "aten::set_",
}

# Operators after which the host needs a value that the device computes: mostly, how large the result is.
WAITS = {
    "aten::_local_scalar_dense": 1,
    "aten::_unique2": 1,
    "aten::bincount": 2,  # the smallest and the largest value
    "aten::equal": 1,
    "aten::masked_select": 1,
    "aten::nonzero": 1,
    "aten::unique_consecutive": 1,
    "aten::unique_dim": 1,
}

INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# These read as much of their source as they write.
GATHERS = {"aten::embedding", "aten::gather", "aten::index", "aten::index_select"}
# These read, change and write as much of their first argument as the last one has.
SCATTERS = {
    "aten::_index_put_impl_",
    "aten::index_add_",
    "aten::index_copy_",
    "aten::index_put_",
    "aten::scatter_",
    "aten::scatter_add_",
}
# The softmax over a dimension that is not the last reads its input three times.
READ_AGAIN = {"aten::_log_softmax": 2, "aten::_softmax": 2, "aten::_log_softmax_backward_data": 1}


@dataclass(frozen=True)
class Cost:
    """What one operator costs.

    Attributes:
        launches: Kernels.
        waits: How often the host waits for the device.
        bytes: Bytes read and written.
    """

    launches: int = 0
    waits: int = 0
    bytes: int = 0

    @property
    def seconds(self) -> float:
        """Modelled time: the launches or the traffic, whichever takes longer. Waits are not in it."""
        return max(self.launches * LAUNCH_SECONDS, self.bytes / BYTES_A_SECOND)


def cost(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: object) -> Cost:
    """What an operator on the device costs, copies between devices left out.

    Args:
        operator: An overload of an ATen operator.
        args: Its positional arguments, plain tensors among them.
        kwargs: Its other arguments.
        result: What it returned.
    """
    name = operator._schema.name
    if name in NO_LAUNCH or _is_view(operator):
        return Cost()
    masks = sum(index.dtype in (torch.bool, torch.uint8) for index in _indices(name, args))
    launches = LAUNCHES.get(name, 1) + MASK_LAUNCHES * masks
    waits = WAITS.get(name, 0) + masks
    if name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
        waits += 1  # for the length of the result
    return Cost(launches, waits, _traffic(operator, args, kwargs, result))


def host_indices(operator: Any, args: tuple[Any, ...], on_device: type[Tensor]) -> int:
    """How many of an indexing operator's indices lie on the host, to be copied to the device."""
    return sum(not isinstance(index, on_device) for index in _indices(operator._schema.name, args))


def _traffic(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: object) -> int:
    """Bytes read and written."""
    name = operator._schema.name
    read = [_bytes(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
    written = sum(_bytes(tensor) for tensor in tree_leaves(result) if isinstance(tensor, Tensor))
    if name in GATHERS:
        return sum(read[1:]) + 2 * written
    if name in SCATTERS:
        return sum(read[1:]) + 2 * read[-1]
    if name == "aten::nll_loss2d_forward":
        return 2 * read[1]  # the target, and one logit of each pixel
    return sum(read) + READ_AGAIN.get(name, 0) * sum(read[:1]) + written


def _indices(name: str, args: tuple[Any, ...]) -> Iterator[Tensor]:
    """The tensors that an indexing operator indexes by."""
    if name in INDEXING:
        yield from (index for index in args[1] if index is not None)


def _is_view(operator: Any) -> bool:
    """Whether the result is another view of an argument."""
    aliases = [returned.alias_info for returned in operator._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
