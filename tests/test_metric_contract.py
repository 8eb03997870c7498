"""Every metric is a torchmetrics metric, on any device, in few launches and without needless waits."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import simulated
from torchmetrics import MetricCollection

from cpg_lightning.metrics import BoundaryF1Score, BoundaryIoU, ClassIoU, TrimapJaccardIndex, boundary_f1

C = 4
METRICS = {
    "iou": lambda **options: ClassIoU(C, **options),
    "boundary_iou": lambda **options: BoundaryIoU(C, 0.1, average="none", **options),
    "mean_boundary_iou": lambda **options: BoundaryIoU(C, 0.1, **options),
    "f1_pooled": lambda **options: BoundaryF1Score(C, (1, 2, 0.2), **options),
    "f1_present": lambda **options: BoundaryF1Score(C, (1, 2, 0.2), "present", **options),
    "f1_gscnn": lambda **options: BoundaryF1Score(C, (1, 2, 0.2), "gscnn", **options),
    "trimap": lambda **options: TrimapJaccardIndex(C, (2, 0, 5), **options),
}
OF_ONE_DISTANCE = {
    "f1_pooled": lambda: BoundaryF1Score(C, (2,)),
    "f1_present": lambda: BoundaryF1Score(C, (2,), "present"),
    "f1_gscnn": lambda: BoundaryF1Score(C, (2,), "gscnn"),
    "trimap": lambda: TrimapJaccardIndex(C, (2,)),
}
every_metric = pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)
every_curve = pytest.mark.parametrize("make", OF_ONE_DISTANCE.values(), ids=OF_ONE_DISTANCE)


def maps(number=1, size=(24, 30), seed=0, classes=C):
    """Predictions and targets of blocks, with void in targets."""
    rng = np.random.default_rng(seed)
    blocks = [
        rng.choice(values, (number, -(-size[0] // 6), -(-size[1] // 6))) for values in (classes, [*range(classes), 255])
    ]
    both = [each.repeat(6, axis=1).repeat(6, axis=2)[:, : size[0], : size[1]] for each in blocks]
    return [torch.as_tensor(each.copy()) for each in both]


def states_of(metric):
    return {name: getattr(metric, name) for name in metric._defaults}


def equal(one, other):
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, equal_nan=True)


@every_metric
def test_a_pickled_metric_gives_the_same_value(make, device):
    metric = make().to(device)
    metric.update(*(each.to(device) for each in maps()))
    again = pickle.loads(pickle.dumps(metric))
    assert again.update_count == 1
    for copy in (again, metric.clone()):
        equal(states_of(copy), states_of(metric))
        equal(copy.compute(), metric.compute())
        copy.update(*(each.to(device) for each in maps(seed=1)))
    assert metric.update_count == 1


@every_metric
def test_forward_returns_the_value_of_the_batch_and_updates(make, device):
    batches = [[each.to(device) for each in maps(2, seed=seed)] for seed in range(3)]
    metric, updated = make().to(device), make().to(device)
    for batch in batches:
        alone = make().to(device)
        alone.update(*batch)
        equal(metric(*batch), alone.compute())
        updated.update(*batch)
    equal(states_of(metric), states_of(updated))
    equal(metric.compute(), updated.compute())


@every_metric
def test_reset_clears_the_state(make):
    metric, fresh = make(), make()
    metric.update(*maps(seed=1))
    metric.compute()
    metric.reset()
    equal(states_of(metric), states_of(fresh))
    for each in (metric, fresh):
        each.update(*maps())
    equal(metric.compute(), fresh.compute())


@every_metric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int32])
def test_predictions_may_have_any_integer_type(make, dtype):
    preds, target = maps()
    equal(make()(preds.to(dtype), target), make()(preds, target))


@every_metric
@pytest.mark.parametrize("precision", ["half", "double"])
def test_the_precision_of_the_module_does_not_change_the_counts(make, precision):
    (metric,) = getattr(torch.nn.ModuleList([make()]), precision)()
    equal(metric(*maps()), make()(*maps()))


@every_metric
@pytest.mark.parametrize(
    "options",
    [
        {"dist_sync_on_step": True},
        {"sync_on_compute": False},
        {"compute_on_cpu": True},
        {"compute_with_cache": False},
        {"process_group": "a group", "distributed_available_fn": lambda: False},
    ],
    ids=lambda options: next(iter(options)),
)
def test_arguments_of_torchmetrics_are_accepted(make, options):
    metric = make(**options)
    for name, value in options.items():
        assert getattr(metric, name) == value
    equal(metric(*maps()), make()(*maps()))


@every_metric
def test_an_unknown_argument_is_refused(make):
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `threshold`"):
        make(threshold=1)


def test_metrics_work_in_a_metric_collection():
    metrics = MetricCollection({name: make() for name, make in METRICS.items()})
    together = metrics(*maps())
    assert together.keys() == METRICS.keys()
    for name, value in together.items():
        equal(value, METRICS[name]()(*maps()))
    metrics.update(*maps(seed=1))
    assert metrics.compute().keys() == METRICS.keys()


@every_curve
def test_a_single_distance_gives_a_tensor_with_one_entry(make):
    metric = make()
    assert metric(*maps()).shape == (1,)
    assert metric.compute().shape == (1,)
    assert metric.compute().shape == (1,)  # from the cache
    assert pickle.loads(pickle.dumps(metric)).compute().shape == (1,)
    assert metric.clone().compute().shape == (1,)


def count_every_second(rank, number, folder):
    torch.distributed.init_process_group("gloo", f"file://{folder}/together", rank=rank, world_size=2)
    preds, target = maps(number)
    results = {}
    for name, make in METRICS.items():
        metric = make()
        for index in range(rank, number, 2):
            metric.update(preds[index : index + 1], target[index : index + 1])
        with metric.sync_context():
            results[name] = {state: value.clone() for state, value in states_of(metric).items()}
        results[name]["value"] = metric.compute()
        results[name]["step"] = make(dist_sync_on_step=True)(preds[rank : rank + 1], target[rank : rank + 1])
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("number", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_two_processes_count_each_image_once(number, tmp_path):
    # Forked: a spawned process imports everything again, which takes longer than the counting.
    torch.multiprocessing.start_processes(count_every_second, (number, tmp_path), nprocs=2, start_method="fork")
    preds, target = maps(number)
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        for name, make in METRICS.items():
            metric = make()
            metric.update(preds, target)
            got = results[name]
            equal(got["step"], make()(preds[:2], target[:2]))
            equal({state: got[state] for state in metric._defaults}, states_of(metric))
            equal(got["value"], metric.compute())


class TestOnADevice:
    @pytest.fixture
    def counted(self):
        with simulated() as counted:
            yield counted

    @every_metric
    @pytest.mark.parametrize("limit", [1, boundary_f1.BYTES], ids=["class by class", "all classes"])
    @pytest.mark.parametrize("size", [(1, 1), (24, 30), (37, 41)], ids=str)
    def test_counts_equal_those_on_the_cpu(self, make, limit, size, counted, monkeypatch):
        monkeypatch.setattr(boundary_f1, "BYTES", limit)
        on_cpu, on_device = make(), make().to(counted.device)
        for seed in range(2):
            batch = maps(2, size, seed)
            on_cpu.update(*batch)
            on_device.update(*(each.to(counted.device) for each in batch))
        equal({name: state.cpu() for name, state in states_of(on_device).items()}, states_of(on_cpu))
        equal(on_device.compute().cpu(), on_cpu.compute())

    def test_all_metrics_take_at_most_300_launches_and_4_waits_per_image(self, counted):
        metrics = [ClassIoU(19), BoundaryIoU(19, 0.005), BoundaryF1Score(19), TrimapJaccardIndex(19)]
        metrics = [metric.to(counted.device) for metric in metrics]
        image = [each.to(counted.device) for each in maps(1, (1024, 2048), classes=19)]
        counted.reset()
        for metric in metrics:
            metric.update(*image)
        assert counted.launches <= 300, counted.operators
        assert counted.waits.total() <= 4, counted.waits

    @pytest.mark.parametrize("classes", [2, 19, 150, 171])
    @pytest.mark.parametrize("size", [(96, 128), (520, 520)], ids=str)
    def test_launches_depend_neither_on_size_nor_on_classes(self, size, classes, counted):
        metrics = [ClassIoU(classes), BoundaryIoU(classes), BoundaryF1Score(classes), TrimapJaccardIndex(classes)]
        metrics = [metric.to(counted.device) for metric in metrics]
        image = [each.to(counted.device) for each in maps(1, size, classes=classes)]
        counted.reset()
        for metric in metrics:
            metric.update(*image)
        assert counted.launches <= 300, counted.operators
        assert counted.waits.total() <= 4, counted.waits


@pytest.mark.slow
def test_importing_the_metrics_needs_neither_lightning_nor_loggers_nor_data():
    program = (
        "import sys;"
        "foreign = ['lightning', 'pytorch_lightning', 'wandb', 'albumentations', 'cv2', 'timm'];"
        "sys.modules.update(dict.fromkeys(foreign));"  # to import None is an ImportError
        "from cpg_lightning.metrics import BoundaryF1Score, BoundaryIoU, ClassIoU, TrimapJaccardIndex;"
        "import torch; target = torch.arange(2).expand(1, 8, 2);"
        "print(*(metric(2)(target, target).nanmean().item()"
        " for metric in (BoundaryF1Score, BoundaryIoU, ClassIoU, TrimapJaccardIndex)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1.0"] * 4
