"""A function that another process runs. That process imports this file instead of a whole test module."""

import torch
from measure import peak


def peak_of_ones(mebibytes):
    """The peak of the memory of a tensor of ones, in bytes."""
    return peak(lambda: torch.ones(mebibytes * 2**18).sum(), torch.device("cpu"))
