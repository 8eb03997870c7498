"""Images and labels as people have them: turned, deep, damaged, huge, misnamed, linked, listed twice."""

import io
import os
import struct
import unicodedata
import warnings
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from layouts import write_ade20k, write_folder, zipped
from PIL import Image, ImageOps, PngImagePlugin, features

from cpg_lightning.data import ADE20KDataModule, Augmentation, CamVidDataModule, FolderDataModule
from cpg_lightning.data.archive import Archive
from cpg_lightning.data.decoding import decode_image, decode_label, read_image
from cpg_lightning.data.header import channels_of, read_header
from cpg_lightning.data.paths import expanded
from cpg_lightning.data.resizing import evaluation_pipeline

BLOCKS = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
CONTAINERS = {
    "jpg": {"format": "JPEG", "quality": 95},
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP", "lossless": True},
    "tif": {"format": "TIFF"},
    "lzw.tif": {"format": "TIFF", "compression": "tiff_lzw"},
}


def encoded(image, exif=None, **options):
    """An image file's content."""
    file = io.BytesIO()
    image.save(file, **options, **({"exif": exif} if exif else {}))
    return file.getvalue()


def turned_file(container, orientation, pixels=BLOCKS):
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    return encoded(image, exif, **CONTAINERS[container])


def shown(content):
    """What viewers show."""
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")).astype(int)


def folder_of(root, **options):
    return FolderDataModule(
        root, **{"augmentation": Augmentation((20, 28)), "batch_size": 2, "num_workers": 0, **options}
    )


def predicted(tmp_path, images, **options):
    """The samples of images to predict: each as it is, or what is wrong with it."""
    data = CamVidDataModule(tmp_path, Augmentation((20, 28)), num_workers=0, predict_images=str(images), **options)
    data.setup("predict")
    return {
        Path(str(path)).name: sample
        for path, sample in zip(data.datasets["predict"].images, data.datasets["predict"], strict=True)
    }


def chunk(name, content):
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def huge_png(width, height, kind=0, before=b""):
    """A PNG that says to be large, and has few pixels."""
    palette = chunk(b"PLTE", bytes(6)) if kind == 3 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + before + header + palette + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("container", CONTAINERS)
    def test_images_to_predict_are_rotated_as_viewers_do(self, container, orientation):
        content = turned_file(container, orientation)
        assert read_header(content).orientation == orientation
        expected = shown(content)
        for got in (decode_image(content, Path("x")), read_image(Image.open(io.BytesIO(content)))):
            assert got.shape == expected.shape
            assert np.abs(got - expected).max() <= 3

    def test_predictions_have_the_size_that_is_shown(self, tmp_path):
        (tmp_path / "telephone.jpg").write_bytes(turned_file("jpg", 6))
        sample = predicted(tmp_path, tmp_path / "telephone.jpg")["telephone.jpg"]
        assert sample["size"].tolist() == [48, 32] == list(sample["image"].shape[1:])

    @pytest.mark.parametrize("part", [0, 1], ids=["image", "label"])
    @pytest.mark.parametrize("container", ["jpg", "png", "tif"])
    def test_a_rotated_label_or_labelled_image_is_an_error(self, container, part, tmp_path):
        data = ADE20KDataModule(write_ade20k(tmp_path), Augmentation((20, 28)), num_workers=0)
        path = data.files("val")[0][part]
        container = "png" if part else container
        pixels = np.full((36, 48), 1, np.uint8) if part else BLOCKS
        path.write_bytes(turned_file(container, 3, pixels))
        data.setup("validate")
        with pytest.raises(
            ValueError, match=rf"stored in their displayed orientation, got EXIF orientation 3: .*{path.name}.*exiftool"
        ):
            data.datasets["val"][0]

    def test_the_exif_of_imagemagick_in_a_png_is_read(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        block = exif.tobytes()
        text = PngImagePlugin.PngInfo()
        text.add_text("Raw profile type exif", f"\nexif\n {len(block):8d}\n{block.hex()}\n", zip=True)
        content = encoded(Image.fromarray(BLOCKS), format="PNG", pnginfo=text)
        assert read_header(content).orientation == 6
        assert np.array_equal(read_image(Image.open(io.BytesIO(content))), decode_image(content, Path("x")))

    @pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(40)])
    def test_invalid_exif_does_not_rotate_the_image(self, exif):
        content = encoded(Image.fromarray(BLOCKS), exif, format="JPEG")
        assert read_header(content).orientation == 1


class TestChannels:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
    @pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "gif", "bmp", "jpeg"])
    def test_grey_rgb_palette_and_cmyk_are_read_and_alpha_is_dropped(self, mode, suffix):
        image = Image.fromarray(BLOCKS).convert(mode)
        try:
            content = encoded(image, format=suffix.upper())
        except (OSError, ValueError):
            pytest.skip("the container has no such mode")
        expected = np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
        assert np.abs(decode_image(content, Path("x")) - expected).max() <= 2
        assert np.abs(read_image(Image.open(io.BytesIO(content))) - expected).max() <= 2

    @pytest.mark.parametrize(
        ("mode", "suffix", "message"),
        [
            ("I;16", "png", "at most 8 bits per channel, got 16: 1 channel.* of 16 bits in "),
            ("I;16", "tiff", "at most 8 bits per channel, got 16: 1 channel.* of 16 bits in "),
            ("I", "tiff", "at most 8 bits per channel, got 32: 1 channel"),
            ("F", "tiff", "at most 8 bits per channel, got 32: 1 channel"),
            ("RGBX", "tiff", "got 4 channels( .RGBX.)? of 8 bits"),
            ("LAB", "tiff", "got 3 channels( .LAB.)? of 8 bits"),
        ],
    )
    def test_other_formats_are_an_error_with_bits_and_channels(self, mode, suffix, message, tmp_path):
        content = encoded(Image.new(mode, (8, 6)), format=suffix.upper())
        path = tmp_path / f"deep.{suffix}"
        path.write_bytes(content)
        for given in (path, Image.open(path), Image.new(mode, (8, 6))):
            with pytest.raises(ValueError, match=message):
                read_image(given)

    def test_a_png_of_three_channels_of_16_bits_is_seen_through_pillow(self, tmp_path):
        cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((4, 5, 3), np.uint16))
        for given in (tmp_path / "deep.png", Image.open(tmp_path / "deep.png")):
            with pytest.raises(ValueError, match="got 16: 3 channels of 16 bits"):
                read_image(given)

    @pytest.mark.parametrize("largest", [1023, 65535])
    @pytest.mark.parametrize("kind", [b"P5", b"P6"])
    def test_a_pnm_of_more_than_8_bits_is_seen(self, kind, largest, tmp_path):
        (tmp_path / "deep.ppm").write_bytes(kind + b" 2 2 %d\n" % largest + bytes(24))
        for given in (tmp_path / "deep.ppm", Image.open(tmp_path / "deep.ppm")):
            with pytest.raises(ValueError, match=f"got {largest.bit_length()}: [13] channel"):
                read_image(given)
        (tmp_path / "dark.ppm").write_bytes(b"P6 1 1 127\n\x7f\0\0")
        assert read_image(tmp_path / "dark.ppm").tolist() == [[[255, 0, 0]]]

    @pytest.mark.parametrize(("suffix", "bits"), [("jp2", 16), ("avif", 10), ("avif", 12)])
    def test_jpeg_2000_and_avif_of_more_than_8_bits_are_seen(self, suffix, bits, tmp_path):
        path = tmp_path / f"deep.{suffix}"
        options = [cv2.IMWRITE_AVIF_DEPTH, bits] if suffix == "avif" else []
        if not cv2.haveImageWriter(str(path)) or not cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint16), options):
            pytest.skip("OpenCV does not write it here")
        for given in (path, Image.open(path)):
            with pytest.raises(ValueError, match=f"got {bits}: 3 channels of {bits} bits"):
                read_image(given)
        Image.fromarray(BLOCKS).save(tmp_path / f"plain.{suffix}")
        for given in (tmp_path / f"plain.{suffix}", Image.open(tmp_path / f"plain.{suffix}")):
            assert read_image(given).shape == BLOCKS.shape

    def test_the_number_of_an_open_file_is_not_read_as_a_bit_depth(self, tmp_path):
        Image.fromarray(BLOCKS).save(tmp_path / "plain.jp2")
        with Image.open(tmp_path / "plain.jp2") as picture:
            (tile,) = picture.tile
            picture.tile = [tile._replace(args=("jp2", 0, 0, 16, 1600))]
            assert channels_of(picture)[0] == 8

    def test_dropping_alpha_is_noted_once(self):
        content = encoded(Image.fromarray(BLOCKS).convert("RGBA"), format="PNG")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("default")
            for _ in range(3):
                decode_image(content, Path("x"))
        assert [str(each.message)[:33] for each in said] == ["images have an alpha channel, whi"]

    def test_arrays_are_rgb_or_grey(self):
        grey = BLOCKS[..., 0]
        for given in (grey, grey[..., None]):
            assert np.array_equal(read_image(given), np.stack([grey] * 3, axis=-1))
        assert read_image(BLOCKS) is BLOCKS
        for wrong in (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint16), np.zeros((0, 4, 3), np.uint8)):
            with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\), got uint"):
                read_image(wrong)


class TestDamage:
    @pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
    def test_a_jpeg_whose_rest_is_zeros_is_named(self, share):
        content = encoded(Image.fromarray(BLOCKS), format="JPEG", quality=95)
        kept = int(len(content) * share)
        with pytest.raises(ValueError, match=r"readable image file, got .*: street\.jpg"):
            decode_image(content[:kept] + bytes(len(content) - kept), Path("street.jpg"))

    def test_data_after_the_end_of_a_jpeg_is_not_damage(self):
        content = encoded(Image.fromarray(BLOCKS), format="JPEG", quality=95)
        assert np.array_equal(decode_image(content + bytes(99), Path("x")), decode_image(content, Path("x")))

    @pytest.mark.parametrize(
        "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"", b"GIF89a", b"BM", b"II*\0"]
    )
    def test_a_file_that_is_not_an_image_is_not_passed_to_other_programs(self, content):
        with pytest.raises(ValueError, match=r"expected a readable image file, got .*x\.png"):
            decode_image(content, Path("x.png"))

    @pytest.mark.parametrize(
        "content",
        [
            encoded(Image.new("P", (4, 4)), format="GIF").replace(bytes(4) + b"\4\0\4\0", bytes(4) + 4 * b"\xff"),
            encoded(Image.fromarray(BLOCKS), format="AVIF").replace(b"iloc", b"ilox")
            if features.check("avif")
            else b"",
        ],
        ids=["GIF", "AVIF"],
    )
    def test_any_exception_of_pillow_is_an_error_with_the_name(self, content):
        with pytest.raises(ValueError, match=r"expected a readable image file, got .*x\.png"):
            decode_image(content, Path("x.png"))

    def test_a_damaged_pillow_image_is_named(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        (tmp_path / "x.jpg").write_bytes(encoded(Image.fromarray(noise), format="JPEG")[:-500])
        with pytest.raises(ValueError, match=r"expected a readable image file, got .*x\.jpg"):
            read_image(Image.open(tmp_path / "x.jpg"))


class TestSize:
    @pytest.mark.parametrize("kind", [0, 2, 3])
    @pytest.mark.parametrize("part", [0, 1], ids=["image", "label"])
    def test_too_many_pixels_are_refused_before_they_are_decoded(self, part, kind, tmp_path):
        data = ADE20KDataModule(write_ade20k(tmp_path), Augmentation((20, 28)), num_workers=0)
        path = data.files("val")[0][part]
        path.write_bytes(huge_png(60000, 50000, kind))
        data.setup("validate")
        with pytest.raises(ValueError, match=rf"max_pixels=178956970 pixels, got 50000x60000 .*{path.name}"):
            data.datasets["val"][0]

    def test_a_file_that_states_two_sizes_is_refused(self):
        small = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0))
        content = huge_png(13000, 13000, 3, before=small)
        assert read_header(content)[1:3] == (2, 2)
        with pytest.raises(ValueError, match=r"got one whose size differs from its header: x\.png"):
            decode_label(content, Path("x.png"))

    @pytest.mark.parametrize("container", [*CONTAINERS, "gif", "bmp"])
    def test_the_limit_is_an_option_and_holds_for_every_container(self, container, tmp_path):
        path = tmp_path / f"image.{container}"
        path.write_bytes(encoded(Image.fromarray(BLOCKS), **CONTAINERS.get(container, {"format": container.upper()})))
        samples = predicted(tmp_path, path, max_pixels=32 * 48)
        assert "image" in samples[path.name]
        data = CamVidDataModule(
            tmp_path, Augmentation((2, 2)), num_workers=0, predict_images=str(path), max_pixels=32 * 48 - 1
        )
        data.setup("predict")
        assert "max_pixels=1535 pixels, got 32x48" in data.datasets["predict"][0]["broken"]

    def test_the_size_after_resizing_is_limited_too(self, tmp_path):
        Image.new("RGB", (40000, 1)).save(tmp_path / "line.png")
        broken = predicted(tmp_path, tmp_path / "line.png", image_size=520)["line.png"]["broken"]
        assert "got 520x20800000 (height x width), an image of 1x40000 resized to image_size=520: line" in broken
        with pytest.raises(ValueError, match="max_pixels=100 pixels, got 10x20"):
            evaluation_pipeline(10, max_pixels=100)(image=np.zeros((1, 2, 3), np.uint8))

    @pytest.mark.parametrize(
        ("option", "value"),
        [("crop_size", {"augmentation": Augmentation((10**6, 10**6))}), ("image_size", {"image_size": (10**6, 10**6)})],
    )
    def test_requested_sizes_are_limited(self, option, value, tmp_path):
        with pytest.raises(
            ValueError, match=f"{option} to be at most max_pixels=178956970 pixels, got 1000000x1000000"
        ):
            CamVidDataModule(tmp_path, **{"augmentation": Augmentation((20, 20)), **value})

    def test_a_zip_file_is_not_inflated_beyond_what_its_index_says(self, tmp_path):
        root = write_ade20k(tmp_path / "ade20k")
        name = "images/validation/ADE_val_00000001.jpg"
        (root / name).write_bytes(bytes(20_000_000))
        zipped(root, tmp_path / "zips" / "ADEChallengeData2016.zip", "ADEChallengeData2016")
        options = {"augmentation": Augmentation((2, 2)), "num_workers": 0}
        data = ADE20KDataModule(tmp_path / "zips", **options, max_pixels=10_000)
        with pytest.raises(
            ValueError, match=r"at most 16817216 bytes, 4 for each of max_pixels=10000, got 20000000: .*zip/ADE"
        ):
            data.dataset("val", training=False)[0]
        archive = tmp_path / "zips" / "ADEChallengeData2016.zip"
        content = archive.read_bytes()
        archive.write_bytes(content.replace(struct.pack("<I", 20_000_000), struct.pack("<I", 99)))  # the index lies
        with pytest.raises(ValueError, match="one that is damaged"):
            ADE20KDataModule(tmp_path / "zips", **options).dataset("val", training=False)[0]

    @pytest.mark.parametrize("offset", [2**31, 2**63, 2**64 - 1])
    def test_a_zip_file_that_states_no_offset_of_its_own_is_named(self, offset, tmp_path):
        root = write_ade20k(tmp_path / "ade20k")
        archive = tmp_path / "zips" / "ADEChallengeData2016.zip"
        zipped(root, archive, "ADEChallengeData2016")
        index = Archive(archive)
        index.entries = {name: (offset, *entry[1:]) for name, entry in index.entries.items()}
        with pytest.raises(ValueError, match=r"expected a readable file in the zip file, got .*: .*zip/ADE"):
            index.read(next(iter(index.entries)), 10**6)

    def test_a_zip_file_with_a_file_without_a_name_is_named(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr("x", b"")
        content = (tmp_path / "a.zip").read_bytes()
        index = content.rindex(b"PK\1\2")
        entry = bytearray(content[index : index + 46] + content[index + 47 :])
        entry[28:30] = bytes(2)  # the length of the name
        entry[-10:-6] = struct.pack("<I", 46)  # of the index
        (tmp_path / "a.zip").write_bytes(content[:index] + entry)
        with pytest.raises(ValueError, match=r"expected a readable zip file, got a file without a name: .*a\.zip"):
            Archive(tmp_path / "a.zip")

    def test_a_plain_file_has_the_same_limit(self, tmp_path):
        with (tmp_path / "large.png").open("wb") as file:
            file.truncate(10**9)
        assert (
            "expected a file of at most 732605096 bytes"
            in predicted(tmp_path, tmp_path / "large.png")["large.png"]["broken"]
        )


class TestNames:
    def test_composed_and_decomposed_names_are_the_same(self, tmp_path):
        root = write_folder(tmp_path)
        for kind, form, suffix in (("images", "NFC", "jpg"), ("labels", "NFD", "png")):
            name = unicodedata.normalize(form, "Straße in Köln")
            (root / kind / "val" / f"val0.{suffix}").rename(root / kind / "val" / f"{name}.{suffix}")
        assert len(folder_of(root).files("val")) == 2

    def test_a_list_may_use_decomposed_characters(self, tmp_path):
        root = write_folder(tmp_path)
        for kind in ("images", "labels"):
            for path in [*(root / kind).rglob("*.*")]:
                path.rename(root / kind / path.name.replace("val0", unicodedata.normalize("NFD", "übung")))
        (root / "train.txt").write_text("train0\n")
        (root / "val.txt").write_text(unicodedata.normalize("NFC", "übung\n"))
        assert len(folder_of(root).files("val")) == 1

    def test_links_are_followed_once(self, tmp_path):
        root = write_folder(tmp_path)
        for kind in ("images", "labels"):
            (root / kind / "val" / "itself").symlink_to(root / kind / "val")
            (root / kind / "val" / "up").symlink_to(root)
        assert len(folder_of(root).files("val")) == 2
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        for kind in ("images", "labels"):
            (root / kind / "val").rename(elsewhere / kind)
            (root / kind / "val").symlink_to(elsewhere / kind)
        assert len(folder_of(root).files("val")) == 2
        assert len(predicted(tmp_path, root / "images" / "val")) == 2

    @pytest.mark.parametrize("what", ["link", "pipe", "folder"])
    def test_a_path_that_is_not_a_file_is_one_broken_image_among_others(self, what, tmp_path):
        root = write_folder(tmp_path)
        path = root / "images" / "val" / "val0.jpg"
        path.unlink()
        {"link": lambda: path.symlink_to("nowhere"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[what]()
        reason = {"link": "a broken link", "pipe": "a pipe, a socket or a device", "folder": "a folder"}[what]
        dataset = folder_of(root).dataset("val", training=False)
        with pytest.raises(ValueError, match=rf"expected a readable image file, got {reason}: .*val0\.jpg"):
            dataset[0]
        samples = predicted(tmp_path, root / "images" / "val")
        assert reason in samples["val0.jpg"]["broken"]
        assert "image" in samples["val1.jpg"]

    def test_a_list_of_images_in_another_encoding_is_named(self, tmp_path):
        (tmp_path / "some.txt").write_bytes("früh.jpg\n".encode("latin-1"))
        with pytest.raises(ValueError, match=r"a list in UTF-8, got another encoding: .*some\.txt"):
            predicted(tmp_path, tmp_path / "some.txt")

    @pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.gif", "a.ppm", "a.JPEG"])
    def test_readable_images_are_predicted(self, name, tmp_path):
        (tmp_path / "in").mkdir()
        kind = {"gif": "GIF", "ppm": "PPM"}.get(name.split(".")[1], "JPEG")
        (tmp_path / "in" / name).write_bytes(encoded(Image.fromarray(BLOCKS), format=kind))
        assert "image" in predicted(tmp_path, tmp_path / "in")[name]


class TestLists:
    @pytest.fixture
    def listed(self, tmp_path):
        root = write_folder(tmp_path)
        for kind in ("images", "labels"):
            for path in [*(root / kind).rglob("*.*")]:
                path.rename(root / kind / path.name)
        (root / "train.txt").write_text("train1\ntrain0\n" + "train1\n" * 10)
        (root / "val.txt").write_text("val0\nval1\n")
        return root

    def test_training_images_are_samples_as_often_as_they_are_listed(self, listed):
        dataset = folder_of(listed).dataset("train", training=True)
        assert [image.stem for image, _ in dataset.files] == ["train0", *["train1"] * 11]
        assert {dataset.names[image] for image, _ in dataset.files} == {"train0", "train1"}

    def test_an_image_is_evaluated_once(self, listed):
        (listed / "val.txt").write_text("val0\nval1\nval0\n")
        with pytest.raises(ValueError, match=r"each name once in .*val\.txt, .* got 1 more than once, e\.g\. val0"):
            folder_of(listed).files("val")

    def test_an_image_is_predicted_once(self, tmp_path):
        Image.fromarray(BLOCKS).save(tmp_path / "a.png")
        (tmp_path / "some.txt").write_text(f"{tmp_path}/a.png\n{tmp_path}/a.png\n")
        assert len(predicted(tmp_path, tmp_path / "some.txt")) == 1


class TestPaths:
    def test_home_and_variables_are_expanded(self, tmp_path, monkeypatch):
        write_folder(tmp_path / "mine")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("DATA", str(tmp_path))
        for root in ("~/mine", "$DATA/mine", "${DATA}/mine"):
            assert folder_of(root).root == tmp_path / "mine"
        assert len(predicted(tmp_path, "${DATA}/mine/images/val")) == 2

    def test_an_empty_path_is_not_the_current_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"expected a path, got ''; use \. for the current folder"):
            folder_of("")
        with pytest.raises(ValueError, match="expected a path, got ' '"):
            predicted(tmp_path, " ")

    def test_a_variable_that_is_not_set_is_named(self):
        with pytest.raises(
            ValueError, match=r"environment variable NOWHERE of the path \$\{NOWHERE\}/x to be set, got none"
        ):
            expanded("${NOWHERE}/x")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), True, 0, -1, "1"])
@pytest.mark.parametrize("option", ["batch_size", "max_pixels"])
def test_numbers_out_of_range_are_refused(option, wrong, tmp_path):
    with pytest.raises(ValueError, match=f"expected {option} to be "):
        CamVidDataModule(tmp_path, **{"augmentation": Augmentation((20, 20)), option: wrong})


def test_an_entry_with_a_huge_stated_size_is_not_read(tmp_path):
    """The index of a zip file is believed in so far as it is a limit."""
    root = tmp_path / "zips"
    root.mkdir()
    with zipfile.ZipFile(root / "ADEChallengeData2016.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            file.writestr(f"ADEChallengeData2016/{kind}/validation/a.{suffix}", bytes(1000))
    content = bytearray((root / "ADEChallengeData2016.zip").read_bytes())
    place = content.rfind(b"PK\x01\x02", 0, content.rfind(b"PK\x01\x02"))
    struct.pack_into("<I", content, place + 24, 3_000_000_000)
    (root / "ADEChallengeData2016.zip").write_bytes(content)
    data = ADE20KDataModule(root, Augmentation((20, 28)), num_workers=0)
    with pytest.raises(ValueError, match=r"at most 732605096 bytes, .* got 3000000000"):
        data.dataset("val", training=False)[0]
