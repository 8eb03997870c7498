"""``python -m cpg_lightning`` is the ``cpg`` command."""

from cpg_lightning.command import command

command()
