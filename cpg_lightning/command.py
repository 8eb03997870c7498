"""The ``cpg`` command: hands over to what needs no Lightning before it is imported."""

import os
import sys


def command() -> None:
    """Run ``cpg study``, or import Lightning and run :func:`cpg_lightning.cli.command`."""
    if sys.argv[1:2] == ["study"]:
        sys.exit(_study(sys.argv[2:]))
    from cpg_lightning.cli import command as trainer_command

    trainer_command()


def _study(arguments: list[str]) -> int:
    from cpg_lightning.studies.study import study

    try:
        return study(arguments)
    except KeyboardInterrupt:  # before any cell was started
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("CPG_TRACEBACK"):
            raise
        sys.exit(f"cpg: {error}\n(CPG_TRACEBACK=1 shows where)")
