"""A function for another process, which then imports only what the function needs."""

import torch
from measure import peak


def peak_of_ones(mebibytes):
    """The peak of the memory of a tensor of ones, in bytes."""
    return peak(lambda: torch.ones(mebibytes * 2**18).sum(), torch.device("cpu"))
