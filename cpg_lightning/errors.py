"""Errors that the user can correct, and their messages."""

import sys
import traceback
from pathlib import Path


def bad_input() -> tuple[type[Exception], ...]:
    """Return the error types that are shown without a traceback."""
    # Importing these libraries takes seconds. A library that is not imported cannot have raised an error.
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    wandb = sys.modules.get("wandb")
    return (
        ValueError,
        OSError,
        ImportError,
        MemoryError,
        *(() if lightning is None else (lightning.MisconfigurationException,)),
        *(() if wandb is None else (wandb.errors.Error,)),
    )


def original_error(error: BaseException) -> BaseException:
    """Return the original error inside the errors that jsonargparse wraps around it."""
    jsonargparse = sys.modules.get("jsonargparse")
    if jsonargparse is None or jsonargparse.__file__ is None:
        return error
    library = Path(jsonargparse.__file__).parent
    each: BaseException | None = error
    while each is not None:
        frames = traceback.extract_tb(each.__traceback__)
        if not frames or library not in Path(frames[-1].filename).parents:
            return each
        each = each.__cause__ or each.__context__
    return error


def message_of(error: BaseException) -> str:
    """Return the message of an error, without the traceback that a worker process puts before it."""
    first = original_error(error)
    return str(first).rsplit(f"{type(first).__name__}: ", maxsplit=1)[-1].strip()
