"""``python -m cpg_lightning`` is the ``cpg`` command."""

from cpg_lightning.cli import command

command()
