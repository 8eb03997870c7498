"""The first lines of a training."""

import pytest
from commands import BASE, CAMVID, PARTS

from cpg_lightning.cli import main


@pytest.mark.parametrize(
    ("options", "optimizer"),
    [
        ([], "optimizer: AdamW(lr=0.001, eps=1e-08, weight_decay=0.01"),
        (PARTS[2:], "optimizer: SGD(lr=0.1, momentum=0"),
    ],
    ids=["default", "given"],
)
def test_the_first_lines_describe_data_network_criterion_and_optimizer(camvid, caplog, options, optimizer):
    parts = [*BASE, *PARTS[:2], *CAMVID, "--data.root=camvid"]
    main(["fit", *parts, *options, "--trainer.fast_dev_run=true"])
    lines = [record.getMessage() for record in caplog.records]
    assert "data: CamVidDataModule, 6 train, 3 val images, 11 classes" in lines
    assert any(line.startswith("criterion: CrossEntropyCPGLoss(cpg_weight=1.0, kernel_size=3") for line in lines)
    assert any(line.startswith(optimizer) for line in lines)
    assert "step: 2 images, 2 at a time on 1 CPU, precision 32-true" in lines
