"""The ``cpg`` command: runs the subcommands that need no Lightning before importing it."""

import io
import os
import sys

WITHOUT_LIGHTNING = (("init",), ("study",), ("report",))


def command() -> None:
    """Run ``cpg init``, ``study`` or ``report``, or import Lightning and run :func:`cpg_lightning.cli.command`."""
    if tuple(sys.argv[1:2]) in WITHOUT_LIGHTNING:
        sys.exit(without_lightning(sys.argv[1], sys.argv[2:]))
    from cpg_lightning.cli import command as trainer_command

    trainer_command()


def without_lightning(name: str, arguments: list[str]) -> int:
    """Run ``init``, ``study`` or ``report``, and return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may have unprintable characters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if name == "init":
            from cpg_lightning.configurations import init

            return init(arguments)
        if name == "report":
            from cpg_lightning.studies.report import report

            return report(arguments)
        from cpg_lightning.studies.study import study

        return study(arguments)
    except KeyboardInterrupt:  # before the first cell has started
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("CPG_TRACEBACK"):
            raise
        sys.exit(f"cpg: {error}\n(CPG_TRACEBACK=1 shows where)")
