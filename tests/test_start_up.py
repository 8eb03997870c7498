"""What a start of the command waits for."""

import ast
from pathlib import Path

import pytest

import cpg_lightning

PACKAGE = Path(cpg_lightning.__file__).parent
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
SLOW_TO_IMPORT = {"matplotlib", "scipy", "segmentation_models_pytorch", "timm", "transformers", "wandb"}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_module_imports_a_slow_library_at_its_top(file):
    statements = ast.parse((PACKAGE / file).read_text()).body
    imported = {alias.name for each in statements if isinstance(each, ast.Import) for alias in each.names}
    imported |= {each.module for each in statements if isinstance(each, ast.ImportFrom) and each.module}
    assert not {name.partition(".")[0] for name in imported} & SLOW_TO_IMPORT
