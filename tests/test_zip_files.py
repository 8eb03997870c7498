"""Datasets in their official zip files."""

import zipfile

import lightning as L
import pytest
from dataset_modules import DATASETS, built, samples_of
from layouts import (
    write_ade20k,
    write_cityscapes,
    write_coco_stuff,
    zipped,
)
from torch.utils.data import DataLoader

from cpg_lightning.data import (
    ADE20KDataModule,
    CityscapesDataModule,
    COCOStuffDataModule,
)

ZIPS = {
    "cityscapes": [("leftImg8bit", "leftImg8bit_trainvaltest.zip"), ("gtFine", "gtFine_trainvaltest.zip")],
    "coco_stuff": [
        ("images/train2017", "train2017.zip"),
        ("images/val2017", "val2017.zip"),
        ("annotations", "stuffthingmaps_trainval2017.zip"),
    ],
    "ade20k": [("", "ADEChallengeData2016.zip")],
    "coco_stuff_10k": [("", "cocostuff-10k-v1.1.zip")],
}
INSIDE = {
    "leftImg8bit": "leftImg8bit",
    "gtFine": "gtFine",
    "images/train2017": "train2017",
    "images/val2017": "val2017",
}


def put_into_zips(name, root, method=zipfile.ZIP_DEFLATED):
    """A new folder with the official zip files of what is in root."""
    holder = root.parent / "zips"
    for folder, archive in ZIPS[name]:
        prefix = "ADEChallengeData2016" if name == "ade20k" else INSIDE.get(folder, "")
        zipped(root / folder, holder / archive, prefix, method)
    return holder


class TestZipFiles:
    @pytest.mark.parametrize("name", ZIPS)
    def test_zip_files_give_the_same_samples_as_folders(self, name, tmp_path):
        options = {"num_workers": 0}
        epochs = []
        root = DATASETS[name][1](tmp_path / name)
        for place in (lambda: root, lambda: put_into_zips(name, root)):
            data = built(DATASETS[name][0], place(), **options)
            L.seed_everything(1)
            data.setup("fit")
            epochs.append((samples_of(data.train_dataloader()), samples_of(data.val_dataloader())))
        assert epochs[0] == epochs[1]

    def test_the_zip_file_itself_may_be_the_root(self, tmp_path):
        holder = put_into_zips("ade20k", write_ade20k(tmp_path / "ade20k"))
        renamed = (holder / "ADEChallengeData2016.zip").rename(holder / "ade.zip")
        data = built(ADE20KDataModule, renamed)
        data.setup("validate")
        assert len(samples_of(data.val_dataloader())) == 2

    @pytest.mark.parametrize("place", [".", "images"])
    def test_zip_files_may_be_in_the_folder_of_their_unpacked_files(self, place, tmp_path):
        root = write_coco_stuff(tmp_path / "coco")
        zipped(root / "images" / "val2017", root / place / "val2017.zip", "val2017")
        assert len(built(COCOStuffDataModule, root).files("val")) == 2

    def test_a_zip_file_that_is_not_the_official_one_is_named(self, tmp_path):
        zipped(write_ade20k(tmp_path / "ade20k"), tmp_path / "zips" / "ADEChallengeData2016.zip")
        with pytest.raises(
            FileNotFoundError, match=r"2016\.zip to contain ADEChallengeData2016/, got annotations, images"
        ):
            built(ADE20KDataModule, tmp_path / "zips").setup("fit")

    def test_a_zip_file_of_another_compression_is_refused(self, tmp_path):
        holder = put_into_zips("ade20k", write_ade20k(tmp_path / "ade20k"), zipfile.ZIP_LZMA)
        with pytest.raises(ValueError, match=r"stored or deflated, got another \(method 14\): .*2016\.zip"):
            built(ADE20KDataModule, holder).setup("fit")

    @pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
    @pytest.mark.parametrize(
        "method",
        [pytest.param(zipfile.ZIP_STORED, marks=pytest.mark.slow), zipfile.ZIP_DEFLATED],
        ids=["stored", "deflated"],
    )
    def test_workers_read_a_zip_file_at_once(self, context, method, tmp_path):
        data = built(CityscapesDataModule, put_into_zips("cityscapes", write_cityscapes(tmp_path / "c"), method))
        data.setup("fit")
        dataset = data.datasets["val"]
        expected = [dataset[index]["image"].numpy().tobytes() for index in (0, 1) * 20]
        loader = DataLoader(dataset, None, sampler=[0, 1] * 20, num_workers=2, multiprocessing_context=context)
        assert [sample["image"].numpy().tobytes() for sample in loader] == expected

    def test_a_broken_zip_file_is_named(self, tmp_path):
        holder = put_into_zips("ade20k", write_ade20k(tmp_path / "ade20k"))
        archive = holder / "ADEChallengeData2016.zip"
        archive.write_bytes(archive.read_bytes()[:-50])
        with pytest.raises(ValueError, match=r"readable zip file, got .*ADEChallengeData2016\.zip; download it again"):
            built(ADE20KDataModule, holder).setup("fit")

    def test_a_broken_file_in_a_zip_file_is_named(self, tmp_path):
        holder = put_into_zips("ade20k", write_ade20k(tmp_path / "ade20k"), zipfile.ZIP_STORED)
        archive = holder / "ADEChallengeData2016.zip"
        content = bytearray(archive.read_bytes())
        with zipfile.ZipFile(archive) as file:
            entry = file.getinfo("ADEChallengeData2016/images/validation/ADE_val_00000001.jpg")
        content[entry.header_offset + 300] ^= 0xFF
        archive.write_bytes(content)
        data = built(ADE20KDataModule, holder)
        data.setup("validate")
        with pytest.raises(
            ValueError, match=r"one that is damaged: .*ADEChallengeData2016\.zip/.*ADE_val_00000001\.jpg"
        ):
            data.datasets["val"][0]
