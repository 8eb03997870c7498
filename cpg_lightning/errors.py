"""Which errors are the user's to mend, and their message."""

import sys
import traceback
from pathlib import Path


def bad_input() -> tuple[type[Exception], ...]:
    """The errors whose message alone is shown."""
    # Only a library that is imported can have raised, and importing one takes seconds.
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


def raised_first(error: BaseException) -> BaseException:
    """The error of whoever raised first, out of what jsonargparse puts around it."""
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
    """The message of an error; from a worker process it arrives after the worker's traceback."""
    first = raised_first(error)
    return str(first).rsplit(f"{type(first).__name__}: ", maxsplit=1)[-1].strip()
