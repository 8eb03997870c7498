"""Gathering of objects from all processes of a run."""

from typing import Any, TypeVar

import torch

Entry = TypeVar("Entry")


def gather_from_processes(entries: list[Entry]) -> list[Entry]:
    """Gather the entries of all processes, in the order of their ranks. Each process must call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return entries
    lists: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(lists, entries)
    return [each for gathered in lists for each in gathered]
