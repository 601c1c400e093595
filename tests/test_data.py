"""Images from every form of source, every mode of a picture, and every mistake by its message."""

import errno
import gzip
import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import cut, savez
from PIL import Image

from fvae.data.images import Images, load_images, read_files
from fvae.data.samples import Samples
from fvae.errors import UserError
from fvae.settings import DataSettings

REAL = Path(__file__).parents[2] / "shared" / "data"
rng = np.random.default_rng(1)
PICTURES = rng.integers(0, 256, (12, 5, 7, 3), dtype=np.uint8)
GREYS = PICTURES[..., 0]
LABELS = np.arange(12) % 3


def settings(source: object, **rest) -> DataSettings:
    return DataSettings(source=str(source), **rest)


def png(array: np.ndarray | Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file, "PNG", **options)
    return file.getvalue()


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes())


def flat(pictures: np.ndarray, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{i:02}.png": png(p) for i, p in enumerate(pictures)}


def classes(pictures: np.ndarray, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}c{LABELS[i]}/{i:02}.png": png(p) for i, p in enumerate(pictures)}


def by_class(array: np.ndarray) -> np.ndarray:
    """The order in which sub folders are read."""
    return array[np.argsort(LABELS, kind="stable")]


def write_parquet(path: Path, pictures: np.ndarray) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": png(p), "path": None} for p in pictures]
    pq.write_table(pa.table({"picture": rows, "label": LABELS}), path)
    return path


def write_declared_parquet(path: Path, pictures: np.ndarray) -> Path:
    import datasets

    names = datasets.ClassLabel(names=["a", "b", "c"])
    features = datasets.Features({"text": datasets.Value("string"), "img": datasets.Image(), "kind": names})
    columns = {"text": ["-"] * 12, "img": [Image.fromarray(p) for p in pictures], "kind": LABELS.tolist()}
    import pyarrow.parquet as pq

    pq.write_table(datasets.Dataset.from_dict(columns, features=features).data.table, path)
    return path


def write_npz(path: Path, images: np.ndarray) -> Path:
    np.savez(path, images=images, labels=LABELS)
    return path


def write_idx(path: Path, images: np.ndarray) -> Path:
    path.write_bytes(idx(images))
    path.with_name(path.name.replace("images-idx3", "labels-idx1")).write_bytes(idx(LABELS))
    return path


# Form: writes PICTURES or GREYS, and says whether labels come with them and in which order.
FORMS = {
    "folder": (lambda d, p: write_folder(d / "f", flat(p)), False),
    "wrapped zip": (lambda d, p: write_zip(d / "f.zip", flat(p, "photos/all/")), False),
    "folder of classes": (lambda d, p: write_folder(d / "f", classes(p)), "by class"),
    "zip of classes": (lambda d, p: write_zip(d / "F.ZIP", classes(p, "set/") | {"set/readme.md": b""}), "by class"),
    "parquet": (lambda d, p: write_parquet(d / "f.parquet", p), True),
    "declared parquet": (lambda d, p: write_declared_parquet(d / "f.parquet", p), True),
    "npz": (lambda d, p: write_npz(d / "f.npz", p), True),
}


def check_form(images: Samples, expected: np.ndarray, labels: bool | str) -> None:
    expected = expected[..., None] if expected.ndim == 3 else expected
    ordered = by_class(expected) if labels == "by class" else expected
    assert images.values.dtype == np.uint8
    np.testing.assert_array_equal(images.values, ordered.transpose(0, 3, 1, 2))
    assert images.shape == images.values.shape[1:] and len(images) == 12 == len(set(images.names))
    if labels:
        assert images.labels is not None and images.labels.dtype == np.int64
        np.testing.assert_array_equal(images.labels, by_class(LABELS) if labels == "by class" else LABELS)
    else:
        assert images.labels is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pictures", [PICTURES, GREYS], ids=["colour", "grey"])
def test_every_form_of_a_source_holds_the_same_images(form, pictures, tmp_path):
    write, labels = FORMS[form]
    check_form(load_images(settings(write(tmp_path, pictures)), "all"), pictures, labels)


def test_idx_with_the_labels_beside_it(tmp_path):
    path = write_idx(tmp_path / "t-images-idx3-ubyte.gz", GREYS)
    check_form(load_images(settings(path), "all"), GREYS, True)


def test_digits():
    images = load_images(settings("digits"), "all")
    assert images.shape == (1, 8, 8) and len(images) == 1797
    assert images.values.max() == 255 and set(images.labels) == set(range(10))


def test_no_image_changes_sides_when_others_come_or_go(tmp_path):
    """Held out or not goes by name: about the share asked for, whatever else the source holds."""
    for i in range(400):
        Image.new("L", (2, 2), i % 256).save(tmp_path / f"{i}.png")
    source = settings(tmp_path, held_out=0.2)
    before = set(load_images(source, "test").names)
    assert 50 < len(before) < 110
    for i in range(0, 400, 3):
        (tmp_path / f"{i}.png").unlink()
    for i in range(400, 500):
        Image.new("L", (2, 2)).save(tmp_path / f"{i}.png")
    train, test = (set(load_images(source, part).names) for part in ("train", "test"))
    assert not train & before and {n for n in test if int(n[:-4]) < 400} <= before


@pytest.mark.parametrize("form", FORMS)
def test_held_out_is_disjoint_complete_and_the_same_every_time(form, tmp_path):
    source = settings(FORMS[form][0](tmp_path, PICTURES), held_out=0.2)
    train, test, everything = (load_images(source, part) for part in ("train", "test", "all"))
    assert 1 <= len(test) <= 6 and sorted(train.names + test.names) == sorted(everything.names)
    for part in (train, test):
        where = [everything.names.index(name) for name in part.names]
        assert where == sorted(where)
        np.testing.assert_array_equal(part.values, everything.values[where])
        again = load_images(source, "train" if part is train else "test")
        assert again.names == part.names
        if everything.labels is not None:
            np.testing.assert_array_equal(part.labels, everything.labels[where])


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_splits_that_are_folders(test, write, tmp_path):
    files = flat(PICTURES[:8], "w/train/") | flat(PICTURES[8:], f"w/{test}/") | flat(PICTURES[:3], "w/extra/")
    files |= {"__MACOSX/w/train/._00.png": b"", "w/.DS_Store": b"", "w/train/Thumbs.db": b"", "w/readme.md": b""}
    path = write(tmp_path / "f.zip", files)
    parts = {part: load_images(settings(path), part) for part in ("train", "test", "all")}
    assert {part: len(images) for part, images in parts.items()} == {"train": 8, "test": 4, "all": 15}
    np.testing.assert_array_equal(parts["test"].values, PICTURES[8:].transpose(0, 3, 1, 2))
    assert parts["train"].skipped == [] and parts["all"].skipped == ["w/readme.md: not an image (.md)"]
    assert len(load_images(settings(path, split="extra"))) == 3
    assert len(load_images(settings(path, split="extra"), "test")) == 4
    with pytest.raises(
        UserError, match=r"--data.split dev: no such split in .*; found extra, (test, train|train, val)"
    ):
        load_images(settings(path, split="dev"))


def test_train_without_a_test_split_is_held_out_from(tmp_path):
    path = write_folder(tmp_path, flat(PICTURES, "train/") | flat(PICTURES[:2], "extra/"))
    train, test = (load_images(settings(path), part).names for part in ("train", "test"))
    assert len(train) + len(test) == 12 and test and not set(train) & set(test)
    # A test split that is trained on is no longer one to test on.
    path = write_folder(tmp_path / "2", flat(PICTURES, "test/"))
    train, test = (load_images(settings(path, split="test"), part).names for part in ("train", "test"))
    assert len(train) + len(test) == 12 and test and not set(train) & set(test)
    with pytest.raises(UserError, match=r"expected a split called train, found test; name one with --data.split"):
        load_images(settings(path))


def test_classes_are_the_same_numbers_in_every_split(tmp_path):
    files = classes(PICTURES, "train/") | {"test/c2/x.png": png(PICTURES[0]), "train/masks/x.csv": b""}
    assert load_images(settings(write_folder(tmp_path, files)), "test").labels.tolist() == [2]


def test_an_image_beside_the_splits_takes_no_labels_from_them(tmp_path):
    path = write_folder(tmp_path, classes(PICTURES, "train/") | {"preview.png": png(PICTURES[0])})
    assert load_images(settings(path, held_out=0.01)).labels is not None
    everything = load_images(settings(path), "all")
    assert len(everything) == 13 and everything.labels is None


def test_nothing_heavy_is_imported():
    code = "import sys, fvae.data.images; print({'datasets', 'sklearn', 'matplotlib'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_more_images_than_memory(tmp_path, monkeypatch):
    """They lie in a memory map and are the same images; where the disk is full too, that is one line."""
    path = write_folder(tmp_path, flat(PICTURES))
    whole = load_images(settings(path), "all")
    monkeypatch.setattr("fvae.data.images._free_memory", lambda: 100)
    mapped = load_images(settings(path), "all")
    assert isinstance(mapped.values.base, np.memmap) or isinstance(mapped.values, np.memmap)
    assert np.array_equal(mapped.values, whole.values) and mapped.names == whole.names
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match=r"12 images of 5x7 need 0.0 GiB in /.*: No space left on device; make "):
        load_images(settings(path), "all")


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_only_the_part_asked_for_is_decoded(tmp_path):
    path = write_folder(tmp_path, flat(PICTURES, "train/") | {"test/broken.png": b"no", "test/good.png": png(GREYS[0])})
    assert load_images(settings(path)).skipped == []
    assert load_images(settings(path), "test").skipped == ["test/broken.png: not an image"]


def hub(monkeypatch, **splits):
    import datasets

    def load_dataset(name):
        features = {"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_dict(
                    {"img": [Image.fromarray(p) for p in pictures], "label": labels},
                    features=datasets.Features(features),
                )
                for split, (pictures, labels) in splits.items()
            }
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_hub(monkeypatch):
    hub(monkeypatch, train=(PICTURES, LABELS.tolist()), test=(PICTURES[:4], [-1] * 4))
    check_form(load_images(settings("user/name-v1.5")), PICTURES, True)
    test = load_images(settings("name"), "test")
    assert len(test) == 4 and test.labels is None and len(load_images(settings("name"), "all")) == 16
    with pytest.raises(UserError, match=r"--data.split dev: no such split in name; found train, test$"):
        load_images(settings("name", split="dev"))


def test_hub_out_of_reach(monkeypatch):
    import datasets

    def load_dataset(name):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = r"^--data user/name: neither a file or folder here nor .* the Hub gave \(Couldn't reach the Hub\)$"
    with pytest.raises(UserError, match=message):
        load_images(settings("user/name"))


def test_hub_without_images(monkeypatch):
    import datasets

    rows = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"], "label": [1]})})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: rows)
    with pytest.raises(UserError, match=r"expected a column of images, found columns text, label$"):
        load_images(settings("name"))


def moded(mode: str) -> Image.Image:
    """A 2x1 picture: a light and a dark pixel (or one that is half transparent)."""
    if mode in ("I;16", "I", "F"):
        return Image.fromarray(np.array([[200 * 256 + 7, 40 * 256]], {"I;16": "u2", "I": "i4", "F": "f4"}[mode]))
    if mode.startswith("P"):
        image = Image.new("P", (2, 1))
        image.putpalette([200, 100, 50, 40, 40, 40])
        image.putdata([0, 1])
        return image
    pixels = {
        "1": [255, 0],
        "L": [200, 40],
        "LA": [(200, 255), (40, 0)],
        "RGB": [(200, 100, 50), (40, 40, 40)],
        "RGBA": [(200, 100, 50, 255), (40, 40, 40, 0)],
        "CMYK": [(55, 155, 205, 0), (215, 215, 215, 0)],
        "YCbCr": [(200, 128, 128), (40, 128, 128)],
    }[mode]
    image = Image.new(mode, (2, 1))
    image.putdata(pixels)
    return image


MODES = {
    "1": ("PNG", {}, [[255, 0]]),
    "L": ("PNG", {}, [[200, 40]]),
    "L with a transparent grey": ("PNG", {"transparency": 40}, [[200, 255]]),
    "LA": ("PNG", {}, [[200, 255]]),
    "I;16": ("PNG", {}, [[200, 40]]),
    "I;16 ": ("TIFF", {}, [[200, 40]]),
    "I": ("TIFF", {}, [[200, 40]]),
    "F": ("TIFF", {}, [[200, 40]]),
    "P": ("PNG", {}, [[200, 40], [100, 40], [50, 40]]),
    "P ": ("GIF", {}, [[200, 40], [100, 40], [50, 40]]),
    "P with a transparent index": ("PNG", {"transparency": 1}, [[200, 255], [100, 255], [50, 255]]),
    "RGB": ("PNG", {}, [[200, 40], [100, 40], [50, 40]]),
    "RGB with a transparent colour": (
        "PNG",
        {"transparency": (40, 40, 40)},
        [[200, 255], [100, 255], [50, 255]],
    ),
    "RGBA": ("PNG", {}, [[200, 255], [100, 255], [50, 255]]),
    "CMYK": ("TIFF", {}, [[200, 40], [100, 40], [50, 40]]),
    "YCbCr": ("TIFF", {}, [[200, 40]] * 3),
}


@pytest.mark.parametrize("name", MODES)
def test_modes(name, tmp_path):
    kind, options, expected = MODES[name]
    moded(name.split()[0]).save(tmp_path / f"a.{kind.lower()}", **options)
    images = load_images(settings(tmp_path))
    np.testing.assert_array_equal(images.values[0, :, 0], expected)
    for colour, channels in {"grey": 1, "rgb": 3}.items():
        assert load_images(settings(tmp_path, colour=colour)).shape == (channels, 1, 2)
        assert load_images(settings(tmp_path), like=Images((channels, 1, 2))).shape == (channels, 1, 2)


@pytest.mark.parametrize("values", [[0.25, 1.0], [-1.0, 5.0], [0.0, 70000.0], [np.nan, 5.0]])
def test_floats_that_are_not_16_bit_greys_are_skipped(values, tmp_path):
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"expected 16-bit greys"):
        load_images(settings(tmp_path))


def test_colour_among_greys_makes_all_rgb(tmp_path):
    path = write_folder(tmp_path, {"0.png": png(GREYS[0]), "1.png": png(PICTURES[1]), "2.png": png(GREYS[2])})
    pixels = load_images(settings(path), "all").values
    np.testing.assert_array_equal(pixels[0], np.stack([GREYS[0]] * 3))
    np.testing.assert_array_equal(pixels[1], PICTURES[1].transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels[2], np.stack([GREYS[2]] * 3))


@pytest.mark.parametrize("kind", ["png", "tiff", "jpg", "webp"])
def test_orientation(kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16] = 255
    Image.fromarray(picture).save(tmp_path / f"a.{kind}", exif=exif)
    pixels = load_images(settings(tmp_path)).values[0]
    assert pixels.shape == (3, 32, 16) and pixels[:, :12].min() > 240 and pixels[:, 20:].max() < 15


def test_first_frame(tmp_path):
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_images(settings(tmp_path)).values[0, :, 0, 0].tolist() == [255, 0, 0]


def test_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path):
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = np.arange(4, dtype=np.uint8)[None, :, None] + 100
    path = write_folder(tmp_path / "f", {"0.png": png(wide), "1.png": png(wide.transpose(1, 0, 2))})
    same = load_images(settings(path, size=4), "all").values
    np.testing.assert_array_equal(same[0], wide[:, 3:7].transpose(2, 0, 1))
    np.testing.assert_array_equal(same[1], wide[:, 3:7].transpose(2, 1, 0))
    expected = Image.fromarray(wide).resize((20, 8), Image.Resampling.LANCZOS).crop((6, 0, 14, 8))
    np.testing.assert_array_equal(
        load_images(settings(path, size=8), "all").values[0], np.asarray(expected).transpose(2, 0, 1)
    )
    message = r"expected images of one size, found 0.png 4x10 and 1.png 10x4; .* --data.size"
    with pytest.raises(UserError, match=message):
        load_images(settings(path), "all")
    # Arrays go the same way.
    np.savez(tmp_path / "a.npz", images=wide[None])
    np.testing.assert_array_equal(load_images(settings(tmp_path / "a.npz", size=4)).values[0], same[0])


def test_shape_of_a_model(tmp_path):
    path = write_folder(tmp_path, flat(PICTURES))
    assert load_images(settings(path), like=Images((1, 5, 7))).shape == (1, 5, 7)
    assert load_images(settings(path, size=4), like=Images((3, 4, 4))).shape == (3, 4, 4)
    assert load_images(settings(path, size=4), like=Images((3, 4, 6))).shape == (3, 4, 6)
    message = r"expected images of shape \(3, 4, 4\) as the model has, found \(3, 5, 7\); .* --data.size 4$"
    with pytest.raises(UserError, match=message):
        load_images(settings(path), like=Images((3, 4, 4)))
    with pytest.raises(UserError, match=r"--data.size 8: the model's images are 4x4"):
        load_images(settings(path, size=8), like=Images((3, 4, 4)))


def test_broken_files_are_skipped_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    whole = png(PICTURES[0])
    files = flat(PICTURES[:3]) | {
        "bomb.png": png(np.zeros((30, 50), np.uint8)),
        "double bomb.png": png(np.zeros((60, 50), np.uint8)),
        "cut.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "notes.txt": b"hello",
        "text.jpg": b"hello",
        ".hidden/x.png": b"",
    }
    for path in (write_folder(tmp_path / "f", files), write_zip(tmp_path / "f.zip", files)):
        images = load_images(settings(path), "all")
        assert images.names == ["00.png", "01.png", "02.png"]
        skipped = dict(line.split(": ", 1) for line in images.skipped)
        assert skipped.keys() == files.keys() - set(images.names) - {".hidden/x.png"}
        assert "decompression bomb" in skipped["bomb.png"] and "decompression bomb" in skipped["double bomb.png"]
        assert skipped["empty.png"] == skipped["text.jpg"] == "not an image"
        assert skipped["notes.txt"] == "not an image (.txt)"
    thin = write_folder(tmp_path / "thin", {"a.png": png(np.zeros((1, 900), np.uint8))})
    with pytest.raises(UserError, match="1x900 is too large once resized"):
        load_images(settings(thin, size=64))


def test_read_files(tmp_path):
    write_folder(tmp_path, {"a.png": png(PICTURES[0]), "b.png": png(GREYS[1].T), "c.png": b"no"})
    a, b, c = (tmp_path / f"{name}.png" for name in "abc")
    images = read_files([a, b, a], shape=(1, 5, 5))
    assert images.values.shape == (3, 1, 5, 5) and images.names == [str(a), str(b), str(a)]
    assert read_files([a]).shape == (3, 5, 7)
    with pytest.raises(UserError, match=r"found .*a.png 5x7 and .*b.png 7x5"):
        read_files([a, b])
    with pytest.raises(UserError, match=r"expected an image: .*c.png: not an image"):
        read_files([a, c])
    with pytest.raises(UserError, match=r"none.png: No such file or directory"):
        read_files([tmp_path / "none.png"])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


U8 = np.zeros((4, 3, 3), np.uint8)
MISUSES = {
    "no source": (lambda d: "", {}, "--data: expected digits, .* found nothing"),
    "no path": (lambda d: d / "none", {}, "--data .*none: no such file or folder"),
    "no file": (lambda d: "none.zip", {}, "--data none.zip: no such file or folder"),
    "one image": (lambda d: write(d / "a.png", png(U8[0])), {}, "a.png: one image file is not a data set"),
    "other file": (lambda d: write(d / "a.csv", b""), {}, r"expected a folder, .zip, .* found a .csv"),
    "empty folder": (lambda d: d, {}, "expected images, found none in 0 files"),
    "no images": (
        lambda d: write_folder(d, {"a.md": b"", "b.png": b"no"}),
        {},
        r"expected images, found none in 2 files \(a.md: not an image \(.md\); b.png: not an image\)",
    ),
    "not a zip": (lambda d: write(d / "a.zip", b"no"), {}, "a.zip: expected a zip archive"),
    "cut zip": (lambda d: cut(write_zip(d / "a.zip", flat(U8))), {}, "a.zip: expected a zip archive"),
    "not an npz": (lambda d: write(d / "a.npz", b"no"), {}, "a.npz: expected an .npz"),
    "empty npz": (lambda d: write(d / "a.npz", b""), {}, "a.npz: expected an .npz"),
    "npy": (lambda d: (np.save(d / "a.npy", U8), (d / "a.npy").rename(d / "a.npz"))[1], {}, "expected an .npz"),
    "cut npz": (lambda d: cut(savez(d / "a.npz", images=U8)), {}, "a.npz: expected an .npz"),
    "objects": (lambda d: savez(d / "a.npz", images=np.array([None])), {}, "expected an .npz"),
    "other arrays": (lambda d: savez(d / "a.npz", x=U8, y=U8), {}, "expected an array `images` .* found x, y"),
    "floats": (lambda d: savez(d / "a.npz", images=U8 / 1), {}, "expected images of dtype uint8, found float64"),
    "channels first": (
        lambda d: savez(d / "a.npz", images=np.zeros((2, 3, 8, 8), np.uint8)),
        {},
        r"with C 1, 3 or 4, found \(2, 3, 8, 8\)",
    ),
    "flat": (lambda d: savez(d / "a.npz", images=U8[0]), {}, "expected images .* found 2 dimensions"),
    "no arrays": (lambda d: savez(d / "a.npz", images=U8[:0]), {}, "expected images, found none in 0 files"),
    "labels": (lambda d: savez(d / "a.npz", images=U8, labels=np.arange(3)), {}, r"shape \(4,\), found int64 \(3,\)"),
    "float labels": (lambda d: savez(d / "a.npz", images=U8, labels=np.ones(4)), {}, "whole numbers, .* float64"),
    "not a parquet": (lambda d: write(d / "a.parquet", b"no"), {}, "a.parquet: expected a .parquet"),
    "cut parquet": (lambda d: cut(write_parquet(d / "a.parquet", GREYS)), {}, "a.parquet: expected a .parquet"),
    "not a gz": (lambda d: write(d / "a.gz", b"no"), {}, "a.gz: expected an idx .gz"),
    "cut gz": (lambda d: cut(write(d / "a.gz", idx(GREYS))), {}, "a.gz: expected an idx .gz"),
    "not an idx": (lambda d: write(d / "a.gz", gzip.compress(b"hello")), {}, "found one that begins with 68 65 6c 6c"),
    "short idx": (lambda d: write(d / "a.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc")), {}, "9 bytes .* found 3"),
    "float idx": (lambda d: write(d / "a.gz", gzip.compress(b"\0\0\x0d\x01\0\0\0\0")), {}, "uint8 .* found type 0d"),
    "idx of labels": (lambda d: write(d / "a.gz", idx(LABELS)), {}, "expected images .* found 1 dimensions"),
    "size": (lambda d: "digits", {"size": 0}, "--data.size 0: expected a number of pixels"),
    "held out": (lambda d: "digits", {"held_out": 1.0}, "--data.held_out 1.0: expected a share between 0 and 1"),
    "split": (lambda d: "digits", {"split": "train"}, "--data.split train: .* digits; the source has no splits"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_one_line_that_says_what_was_expected(name, tmp_path):
    make, rest, message = MISUSES[name]
    with pytest.raises(UserError, match=message) as caught:
        load_images(settings(make(tmp_path), **rest))
    assert "\n" not in str(caught.value)


def test_labels_of_an_idx_of_other_length(tmp_path):
    path = write_idx(tmp_path / "images-idx3.gz", GREYS[:5])
    with pytest.raises(UserError, match=r"expected labels .* shape \(5,\), found uint8 \(12,\)"):
        load_images(settings(path))


def test_one_image_is_to_train_on(tmp_path):
    write_folder(tmp_path, {"a.png": png(GREYS[0]), "readme.md": b""})
    assert load_images(settings(tmp_path)).names == ["a.png"]
    with pytest.raises(UserError, match=r"expected 2 images or more to hold some out for a test, found 1"):
        load_images(settings(tmp_path), "test")


def test_links(tmp_path):
    write_folder(tmp_path, flat(PICTURES, "far/"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "train").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "far")
    assert len(load_images(settings(tmp_path / "here"), "all")) == 12


@pytest.mark.skipif(not REAL.exists(), reason="no real data in ../shared/data")
def test_real_data():
    faces = load_images(settings(REAL / "celeba64.zip"), "test")
    assert faces.shape == (3, 64, 64) and len(faces) == 500 and faces.labels is None and faces.skipped == []
    digits = load_images(settings(REAL / "mnist_test.npz"), "all")
    with np.load(REAL / "mnist_test.npz") as arrays:
        np.testing.assert_array_equal(digits.values[:, 0], arrays["images"][..., 0])
        np.testing.assert_array_equal(digits.labels, arrays["labels"])
