"""Each kind of bad input ends with its message and its exit status, and a page lists all of them."""

import re
import shlex
import string
import sys

import pytest
from bad_inputs import BAD_INPUTS, PAGE, SHORT, with_table

from cpg_lightning.command import command

ROWS = [row for rows in BAD_INPUTS.values() for row in rows]
ADDED = {"check-data": ["--num_workers", "0", "--crops", ""]}  # common to all rows, and faster


@pytest.mark.parametrize("row", ROWS, ids=[row.kind for row in ROWS])
def test_the_message_names_the_fault(row, monkeypatch, capfd):
    row.make()
    _, name, *options = shlex.split(string.Template(row.command).substitute(SHORT))
    monkeypatch.setattr(sys, "argv", ["cpg", name, *options, *ADDED.get(name, [])])
    with pytest.raises(SystemExit) as stopped:
        command()
    code, output = stopped.value.code, capfd.readouterr()
    assert (1 if isinstance(code, str) else code) == row.status
    text = " ".join(f"{output.out} {output.err} {code}".split())
    pattern = ".*".join(re.escape(part) for part in " ".join(row.said.split()).split("..."))
    assert re.search(pattern, text), f"expected {row.said!r}, got {text[-2000:]}"
    assert "Traceback" not in text
    assert "Union subtypes" not in text or row.status == 2


def test_each_kind_of_bad_input_has_its_own_name():
    assert len(ROWS) >= 60
    assert len({(title, row.kind) for title, rows in BAD_INPUTS.items() for row in rows}) == len(ROWS)


def test_the_page_shows_every_message():
    text = PAGE.read_text()
    assert with_table(text) == text, "python tests/bad_inputs.py writes the table anew"
