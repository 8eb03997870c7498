"""A simulated accelerator: tensors that compute on the CPU, while launches, waits and bytes are counted."""

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from simulated_costs import Cost, cost, host_indices
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

TORCH = str(Path(torch.__file__).parent)
DEVICE = torch.device("privateuseone", 0)


class _Backend:
    """What torch asks the module of a device type. It is not available: nothing should choose it by itself."""

    def is_available(self) -> bool:
        return False

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _register() -> torch.library.Library:
    """Make the device known to torch, as "simulated". torch forgets the device if the returned library is freed."""

    class Hooks(torch._C._acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return False

        def is_built(self) -> bool:
            return True

        def has_primary_context(self, index: int) -> bool:
            return True

    backend_registration._setup_privateuseone_for_python_backend("simulated", _Backend(), Hooks())
    # Autocast does nothing on the device: it has no list of operators for it.
    library = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    library.fallback(torch.library.fallthrough_kernel)
    return library


# Beside a GPU, torch would take the device for the accelerator of the process. Elsewhere it must know the device before
# the first backward pass, which counts the devices.
HAS_PYTHON_BACKENDS = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
if HAS_PYTHON_BACKENDS and not torch.cuda.is_available():
    _library = _register()


class SimulatedDevice(TorchDispatchMode):
    """Counts what is done on the simulated device, within a ``with`` statement.

    Tensors and modules move to it by ``.to(device)``. An operator whose arguments lie on the device and on the host is an
    error, as on an accelerator. Numbers of launches and the model's time are estimates (see ``simulated_costs.py``);
    waits and mixes are found wherever the code runs through.

    Attributes:
        device: The device.
        launches: Kernels launched.
        bytes: Bytes that they read and write.
        seconds: Modelled time, the sum over operators of the time of launches or of traffic, whichever is longer.
        waits: How often the host waits for the device, by operator and place (``file:line``).
        operators: Launches by operator.

    Raises:
        RuntimeError: For a mix of devices, and in a process with a GPU.

    Example:
        >>> with SimulatedDevice() as counted:
        ...     values = torch.ones(3).to(counted.device)
        ...     counted.reset()
        ...     total = (2 * values).sum().item()
        >>> total, counted.launches, counted.waits.total()
        (6.0, 3, 1)
    """

    device = DEVICE

    def __init__(self) -> None:
        if not HAS_PYTHON_BACKENDS:
            raise RuntimeError(
                f"expected a torch with backends written in Python, got torch {torch.__version__}; "
                "install torch 2.10 or later"
            )
        if torch.cuda.is_available():
            raise RuntimeError(
                "expected a process without a GPU, which torch would not find beside the simulated device; "
                "start it with CUDA_VISIBLE_DEVICES="
            )
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Count anew."""
        self.launches = 0
        self.bytes = 0
        self.seconds = 0.0
        self.waits: Counter[tuple[str, str]] = Counter()
        self.operators: Counter[str] = Counter()

    def add(self, name: str, cost: Cost) -> None:
        """Count an operator."""
        self.launches += cost.launches
        self.bytes += cost.bytes
        self.seconds += cost.seconds
        if cost.launches:
            self.operators[name] += cost.launches
        if cost.waits:
            self.waits[name, _place()] += cost.waits

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Without, torch.tensor(list, device=...) would pass the mode by.
            before = torch._C._only_lift_cpu_tensors()
            torch._C._set_only_lift_cpu_tensors(True)
            stack.callback(torch._C._set_only_lift_cpu_tensors, before)
            super().__enter__()
            _counting.append(self)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stack:
            _counting.remove(self)
            super().__exit__(kind, error, traceback)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> object:
        return _call(func, args, kwargs or {})


_counting: list[SimulatedDevice] = []


class SimulatedTensor(Tensor):
    """A tensor on the simulated device; ``on_host`` has its values."""

    on_host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, on_host: Tensor) -> Self:
        """A tensor of these values, not copied."""
        # No tensor of inference mode, which could not be a view of one from outside.
        with torch.inference_mode(False):
            tensor = Tensor._make_wrapper_subclass(
                cls,
                on_host.size(),
                strides=on_host.stride(),
                storage_offset=on_host.storage_offset(),
                dtype=on_host.dtype,
                device=DEVICE,
            )
        tensor.on_host = on_host
        return tensor

    @property
    def data(self) -> Tensor:
        """The tensor without its history. Modules set it when they are converted, which must reach the values too."""
        return self.detach()

    @data.setter
    def data(self, values: Tensor) -> None:
        Tensor.data.__set__(self, values)
        self.on_host = values.on_host

    def tolist(self) -> Any:
        """The values as Python numbers: the host waits."""
        return self.detach().cpu().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else repr(self)

    def __repr__(self, **_: object) -> str:
        return f"SimulatedTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> object:
        return _call(func, args, kwargs or {})


def _call(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Call an operator on the CPU, and count it where it would run on the device."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_device = any(isinstance(tensor, SimulatedTensor) for tensor in tensors)
    named = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    to_device = on_device if named is None else named.type == DEVICE.type
    if not on_device and not to_device:
        return operator(*args, **kwargs)
    name = operator._schema.name
    if to_device and kwargs.get("generator") is not None:
        raise RuntimeError(f"expected a generator on {DEVICE} for {operator}, got one on cpu, at {_place()}")
    on_host = kwargs if named is None else {**kwargs, "device": torch.device("cpu")}
    on_host = {key: value for key, value in on_host.items() if key != "pin_memory"}
    host_args, host_kwargs = tree_map(_host, (args, on_host))
    if name in ("aten::_to_copy", "aten::copy_"):
        return _copy(operator, args, kwargs, host_args, host_kwargs, to_device)
    if on_device:
        _refuse_mix(operator, tensors, args)
    result = operator(*host_args, **host_kwargs)
    _count(name, cost(operator, host_args, host_kwargs, result))
    copies = host_indices(operator, args, SimulatedTensor)
    if copies:
        _count(f"{name}, index from the host", Cost(copies, copies))
    return return_and_correct_aliasing(operator, args, kwargs, tree_map(_device, result))


def _copy(
    operator: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    host_args: tuple[Any, ...],
    host_kwargs: dict[str, Any],
    to_device: bool,
) -> object:
    """A copy: to another type or layout, or between host and device, which the host waits for unless told not to."""
    name = operator._schema.name
    if name == "aten::copy_":
        target, source = args[:2]
        to_device = isinstance(target, SimulatedTensor)
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    else:
        source = args[0]
        non_blocking = kwargs.get("non_blocking", False)
    from_device = isinstance(source, SimulatedTensor)
    result = operator(*host_args, **host_kwargs)
    if from_device and to_device:
        _count(name, cost(operator, host_args, host_kwargs, result))
    else:
        direction = "to the device" if to_device else "to the host"
        _count(f"{name} {direction}", Cost(1, int(not non_blocking), source.numel() * source.element_size()))
    if name == "aten::copy_":
        return target
    # The host's tensor must not share its memory with the device's.
    return SimulatedTensor(result) if to_device else result


def _refuse_mix(operator: Any, tensors: list[Tensor], args: tuple[Any, ...]) -> None:
    """Tensors of the host beside those of the device are an error, but for single numbers and indices."""
    indices = host_indices(operator, args, SimulatedTensor)
    strangers = [tensor for tensor in tensors if not isinstance(tensor, SimulatedTensor) and tensor.ndim]
    if len(strangers) > indices:
        raise RuntimeError(
            f"expected all tensors of {operator} on one device, got {DEVICE} and cpu "
            f"{tuple(strangers[0].shape)}, at {_place()}"
        )


def _count(name: str, cost: Cost) -> None:
    for counting in _counting:
        counting.add(name, cost)


def _host(leaf: Any) -> Any:
    return leaf.on_host if isinstance(leaf, SimulatedTensor) else leaf


def _device(leaf: Any) -> Any:
    return SimulatedTensor(leaf) if isinstance(leaf, Tensor) else leaf


def _place() -> str:
    """File and line that called torch; a backward pass of torch's own has none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(TORCH) and Path(file).parent != Path(__file__).parent:
            return f"{'/'.join(Path(file).parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "backward"
