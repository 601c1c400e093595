"""Images of every mode, size and orientation as one array; broken files; names of image files."""

import errno

import numpy as np
import pytest
import torch
from PIL import Image
from sources import png, pngs, read, write_folder, write_zip

from fvae.data import Images, Modality, Table
from fvae.errors import InputError
from fvae.settings import DataSettings

PICTURES = np.random.default_rng(1).integers(0, 256, (12, 5, 7, 3), dtype=np.uint8)
GRAYS = PICTURES[..., 0]


def image_of(mode: str) -> Image.Image:
    """A 2x1 picture: a light and a dark pixel (or one that is half transparent)."""
    if mode in ("I;16", "I", "F"):
        return Image.fromarray(np.array([[200 * 256 + 7, 40 * 256]], {"I;16": "u2", "I": "i4", "F": "f4"}[mode]))
    image = Image.new(mode, (2, 1))
    if mode == "P":
        image.putpalette([200, 100, 50, 40, 40, 40])
    pixels = {
        "1": [255, 0],
        "L": [200, 40],
        "P": [0, 1],
        "LA": [(200, 255), (40, 0)],
        "RGB": [(200, 100, 50), (40, 40, 40)],
        "RGBA": [(200, 100, 50, 255), (40, 40, 40, 0)],
        "CMYK": [(55, 155, 205, 0), (215, 215, 215, 0)],
        "YCbCr": [(200, 128, 128), (40, 128, 128)],
    }
    image.putdata(pixels[mode])
    return image


RGB = [[200, 40], [100, 40], [50, 40]]
ON_WHITE = [[200, 255], [100, 255], [50, 255]]
MODES = {
    "1": ("PNG", {}, [[255, 0]]),
    "L": ("PNG", {}, [[200, 40]]),
    "L with a transparent gray": ("PNG", {"transparency": 40}, [[200, 255]]),
    "LA": ("PNG", {}, [[200, 255]]),
    "I;16": ("PNG", {}, [[200, 40]]),
    "I;16 ": ("TIFF", {}, [[200, 40]]),
    "I": ("TIFF", {}, [[200, 40]]),
    "F": ("TIFF", {}, [[200, 40]]),
    "P": ("PNG", {}, RGB),
    "P ": ("GIF", {}, RGB),
    "P with a transparent index": ("PNG", {"transparency": 1}, ON_WHITE),
    "RGB": ("PNG", {}, RGB),
    "RGB with a transparent color": ("PNG", {"transparency": (40, 40, 40)}, ON_WHITE),
    "RGBA": ("PNG", {}, ON_WHITE),
    "CMYK": ("TIFF", {}, RGB),
    "YCbCr": ("TIFF", {}, [[200, 40]] * 3),
}


@pytest.mark.parametrize("name", MODES)
def test_images_of_every_mode_are_read(name, tmp_path):
    kind, options, expected = MODES[name]
    image_of(name.split()[0]).save(tmp_path / f"a.{kind.lower()}", **options)
    np.testing.assert_array_equal(read(tmp_path).values[0, :, 0], expected)
    for color, channels in {"gray": 1, "rgb": 3}.items():
        assert read(tmp_path, color=color).shape == (channels, 1, 2)
        assert read(tmp_path, like=Images((channels, 1, 2))).shape == (channels, 1, 2)


@pytest.mark.parametrize("values", [[0.25, 1.0], [-1.0, 5.0], [0.0, 70000.0], [np.nan, 5.0]])
def test_floats_that_are_not_16_bit_grays_are_skipped(values, tmp_path):
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match="expected 16-bit gray values"):
        read(tmp_path)


def test_color_among_grays_makes_all_rgb(tmp_path):
    path = write_folder(tmp_path, {"0.png": png(GRAYS[0]), "1.png": png(PICTURES[1]), "2.png": png(GRAYS[2])})
    expected = [np.stack([GRAYS[0]] * 3), PICTURES[1].transpose(2, 0, 1), np.stack([GRAYS[2]] * 3)]
    np.testing.assert_array_equal(read(path).values, expected)


@pytest.mark.parametrize("kind", ["png", "tiff", "jpg", "webp"])
def test_images_are_turned_upright(kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16] = 255
    Image.fromarray(picture).save(tmp_path / f"a.{kind}", exif=exif)
    pixels = read(tmp_path).values[0]
    assert pixels.shape == (3, 32, 16) and pixels[:, :12].min() > 240 and pixels[:, 20:].max() < 15


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (3, 2), color) for color in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read(tmp_path).values[0, :, 0, 0].tolist() == [255, 0, 0]


def test_size_resizes_the_shorter_side_and_crops_the_center(tmp_path):
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = np.arange(4, dtype=np.uint8)[None, :, None] + 100
    path = write_folder(tmp_path / "f", {"0.png": png(wide), "1.png": png(wide.transpose(1, 0, 2))})
    cropped = read(path, size=4).values
    np.testing.assert_array_equal(cropped[0], wide[:, 3:7].transpose(2, 0, 1))
    np.testing.assert_array_equal(cropped[1], wide[:, 3:7].transpose(2, 1, 0))
    expected = Image.fromarray(wide).resize((20, 8), Image.Resampling.LANCZOS).crop((6, 0, 14, 8))
    np.testing.assert_array_equal(read(path, size=8).values[0], np.asarray(expected).transpose(2, 0, 1))
    message = r"expected images of one size, found 0.png 4x10 and 1.png 10x4; resize them with `size`$"
    with pytest.raises(InputError, match=message):
        read(path)
    np.savez(tmp_path / "a.npz", images=wide[None])  # arrays are treated alike
    np.testing.assert_array_equal(read(tmp_path / "a.npz", size=4).values[0], cropped[0])


def test_size_and_fit(tmp_path):
    """Height and width in any form; crop and stretch fill them, pad fits inside them and keeps the proportions."""
    image = np.random.default_rng(0).integers(0, 256, (6, 12, 3), dtype=np.uint8)
    path = write_folder(tmp_path / "f", {"0.png": png(image)})
    for size in ("4x6", [4, 6], (4, 6)):
        assert read(path, size=size).shape == (3, 4, 6) and read(path, size=size, fit="pad").shape == (3, 3, 6)
    assert DataSettings(size="4x4").size == DataSettings(size=[4, 4]).size == DataSettings(size=4).size == 4
    stretched = np.asarray(Image.fromarray(image).resize((5, 9), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    np.testing.assert_array_equal(read(path, size="9x5", fit="stretch").values[0], stretched)
    assert read(path, size="9x5", fit="stretch", like=Images((3, 9, 5))).shape == (3, 9, 5)
    assert read(path, size=6, fit="pad", like=Images((3, 3, 6))).shape == (3, 3, 6)
    write_folder(path, {"1.png": png(image[:, :6])})
    message = r"expected images of one size, found 0.png 3x6 and 1.png 6x6; choose crop or stretch as `fit`$"
    with pytest.raises(InputError, match=message):
        read(path, size=6, fit="pad")
    for wrong in ("big", "4x", "0x4", 0, -1, 2.5, "4x4x4", [4, "x"], 10**7, True):
        with pytest.raises(
            InputError, match=r"^size: expected a number of pixels, as 64, or height x width, as 48x64,"
        ):
            DataSettings(size=wrong)


def test_images_are_brought_to_the_shape_of_a_model(tmp_path):
    path = write_folder(tmp_path, pngs(PICTURES))
    assert read(path, like=Images((1, 5, 7))).shape == (1, 5, 7)
    assert read(path, size=4, like=Images((3, 4, 4))).shape == (3, 4, 4)
    assert read(path, size="4x6", like=Images((3, 4, 6))).shape == (3, 4, 6)
    assert read(path, like=Modality((3, 5, 7))).shape == (3, 5, 7)
    message = r"expected images of 4x4 rgb, found images of 5x7 rgb; resize them with `size` 4x4 and `fit` crop$"
    with pytest.raises(InputError, match=message):
        read(path, like=Images((3, 4, 4)))
    with pytest.raises(InputError, match=r"^size: expected 4x4, the size of the model's images, found 8$"):
        read(path, size=8, like=Images((3, 4, 4)))
    with pytest.raises(InputError, match="expected a model of images of 1 or 3 channels, as files have, found 2"):
        read(path, like=Images((2, 5, 7)))
    with pytest.raises(InputError, match=r"expected samples of 4 x 4, found images of 5x7 rgb$"):
        read(path, like=Modality((4, 4)))
    for settings in ({}, {"size": 8}):
        with pytest.raises(InputError, match=r"^source: digits: expected rows as the model has, found images$"):
            read("digits", like=Table((64,)), **settings)


def test_broken_files_are_skipped_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    whole = png(PICTURES[0])
    files = pngs(PICTURES[:3]) | {
        "bomb.png": png(np.zeros((30, 50), np.uint8)),
        "double bomb.png": png(np.zeros((60, 50), np.uint8)),
        "cut.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "notes.txt": b"hello",
        "text.jpg": b"hello",
        ".hidden/x.png": b"",
    }
    for path in (write_folder(tmp_path / "f", files), write_zip(tmp_path / "f.zip", files)):
        images = read(path)
        assert images.names == ["00.png", "01.png", "02.png"]
        skipped = dict(line.split(": ", 1) for line in images.skipped)
        assert skipped.keys() == files.keys() - set(images.names)
        assert "decompression bomb" in skipped["bomb.png"] and "decompression bomb" in skipped["double bomb.png"]
        assert skipped["empty.png"] == skipped["text.jpg"] == "not an image"
        assert skipped["notes.txt"] == "not an image (.txt)"
    thin = write_folder(tmp_path / "thin", {"a.png": png(np.zeros((1, 900), np.uint8))})
    with pytest.raises(InputError, match="1x900 is too large once resized"):
        read(thin, size=64)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_more_images_than_memory_holds_are_read(tmp_path, monkeypatch):
    """They lie in a memory map and are the same images; where the disk is full too, that is one line."""
    path = write_folder(tmp_path, pngs(PICTURES))
    whole = read(path)
    monkeypatch.setattr("fvae.data.images.free_memory", lambda: 100)
    mapped = read(path)
    assert isinstance(mapped.values.base, np.memmap) or isinstance(mapped.values, np.memmap)
    assert np.array_equal(mapped.values, whole.values) and mapped.names == whole.names
    monkeypatch.setattr("os.posix_fallocate", full)
    message = r"expected 0.0 GiB for 12 images of 5x7, found /.*: No space left on device; make .* with `size`$"
    with pytest.raises(InputError, match=message):
        read(path)


def test_image_files_are_read_by_name(tmp_path):
    write_folder(tmp_path, {"a.png": png(PICTURES[0]), "b.png": png(GRAYS[1].T), "c.png": b"no"})
    a, b, c, none = (str(tmp_path / f"{name}.png") for name in ("a", "b", "c", "none"))
    images = Images((1, 5, 5)).read([a, b, a])
    assert images.values.shape == (3, 1, 5, 5) and images.names == [a, b, a]
    with pytest.raises(InputError, match=r"expected an image, found .*c.png: not an image$"):
        Images((3, 5, 7)).read([a, c])
    with pytest.raises(InputError, match=r"found none in 1 files \(.*none.png: No such file or directory\)$"):
        Images((3, 5, 7)).read([none])


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        (None, True, "^out: expected a name to write to, found none$"),
        ("a.doc", True, r"^out: .*a.doc: expected a name that ends in .npz, .png, .* for images$"),
        ("a", False, "^out: .*a: expected a name that ends in"),
        ("run", True, "^out: .*run: expected a folder for images, found a run$"),
        ("used", True, "^out: .*used: expected a new or empty folder, found one with files in it$"),
        ("used/file/a", True, "^out: .*: expected a folder at .*file, found a file$"),
        ("folder.png", True, "^out: .*folder.png: expected a file's name, found a folder$"),
    ],
)
def test_names_that_cannot_be_written_are_refused(name, folder, message, tmp_path):
    write_folder(tmp_path, {"run/config.json": b"", "used/file": b"", "folder.png/file": b""})
    with pytest.raises(InputError, match=message):
        Images((1, 8, 8)).check_out(name and tmp_path / name, folder)


def test_images_are_written_as_a_picture_an_array_or_a_folder(tmp_path):
    """A sheet, an .npz or a folder; a sheet of rows is a picture only."""
    images, modality = Images((3, 5, 7)).to_output(PICTURES.transpose(0, 3, 1, 2)), Images((3, 5, 7))
    np.testing.assert_array_equal(images, PICTURES)
    for name in ("a.png", "a.npz", "folder"):
        modality.check_out(tmp_path / name)
        modality.write(images, tmp_path / name, np.arange(12))
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.array_equal(arrays["images"], images) and arrays["labels"].tolist() == list(range(12))
    np.testing.assert_array_equal(read(tmp_path / "folder").values, PICTURES.transpose(0, 3, 1, 2))
    for name in ("a.npz", "folder2"):
        with pytest.raises(InputError, match=rf"^out: .*{name}: expected a name that ends in .png, .*, for images$"):
            modality.check_out(tmp_path / name, sheet=True)


def test_the_values_of_a_pixel_lie_side_by_side():
    """In the order that torch's convolutions are fastest in, augmented or not."""
    images = Images((3, 5, 7))
    x = torch.as_tensor(images.collate(np.ascontiguousarray(np.moveaxis(PICTURES, -1, 1))))
    assert torch.equal(x, torch.from_numpy(np.moveaxis(PICTURES, -1, 1)))
    for found in (x, images.augment(x, torch.arange(12) % 2 == 0, torch.ones(12, 2, dtype=torch.long))):
        assert found.is_contiguous(memory_format=torch.channels_last)
