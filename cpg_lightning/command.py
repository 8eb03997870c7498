"""The ``cpg`` command: runs the subcommands that need no Lightning before importing it."""

import io
import os
import sys

from cpg_lightning.errors import bad_input, message_of

WITHOUT_LIGHTNING = (("init",), ("study",), ("report",))


def command() -> None:
    """Run the command line. For bad input, print the error message without a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name may contain bytes that cannot be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if tuple(sys.argv[1:2]) in WITHOUT_LIGHTNING:
            sys.exit(without_lightning(sys.argv[1], sys.argv[2:]))
        from cpg_lightning.cli import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # a Trainer turns Ctrl-C into status 1
            sys.exit(130)
        raise
    except Exception as error:
        if os.environ.get("CPG_TRACEBACK") or not isinstance(error, bad_input()):
            raise
        sys.exit(f"cpg: {message_of(error)}\n(CPG_TRACEBACK=1 shows where)")


def without_lightning(name: str, arguments: list[str]) -> int:
    """Run ``init``, ``study`` or ``report``, and return the exit status."""
    if name == "init":
        from cpg_lightning.configurations import init

        return init(arguments)
    if name == "report":
        from cpg_lightning.studies.report import report

        return report(arguments)
    from cpg_lightning.studies.study import study

    return study(arguments)
