"""Images from every form of source, which of them are held out, and every mistake by its message."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import cut, savez
from huggingface_hub import HfApi
from PIL import Image
from sources import check_held_out, idx, png, pngs, read, write, write_folder, write_zip

from fvae.data import Samples, load_data
from fvae.data.files import check_expansion
from fvae.errors import InputError
from fvae.settings import DataSettings

REAL = Path(__file__).parents[3] / "shared" / "data"
PICTURES = np.random.default_rng(1).integers(0, 256, (12, 5, 7, 3), dtype=np.uint8)
GRAYS = PICTURES[..., 0]
LABELS = np.arange(12) % 3
BY_CLASS = np.argsort(LABELS, kind="stable")  # the order in which sub folders are read


def by_class(pictures: np.ndarray, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}c{LABELS[i]}/{i:02}.png": png(picture) for i, picture in enumerate(pictures)}


def parquet(path: Path, pictures: np.ndarray) -> Path:
    """Bytes that nobody declared to be images."""
    pq.write_table(pa.table({"picture": [{"bytes": png(p), "path": None} for p in pictures], "label": LABELS}), path)
    return path


def declared(pictures: np.ndarray, labels: list[int]) -> datasets.Dataset:
    """Pictures and classes as Hugging Face declares them."""
    kinds = {"text": datasets.Value("string"), "img": datasets.Image()}
    features = datasets.Features(kinds | {"kind": datasets.ClassLabel(names=["a", "b", "c"])})
    columns = {"text": ["-"] * len(labels), "img": [Image.fromarray(p) for p in pictures], "kind": labels}
    return datasets.Dataset.from_dict(columns, features=features)


def declared_parquet(path: Path, pictures: np.ndarray) -> Path:
    pq.write_table(declared(pictures, LABELS.tolist()).data.table, path)
    return path


def idx_pair(folder: Path, images: np.ndarray) -> Path:
    write(folder / "t-labels-idx1-ubyte.gz", idx(LABELS))
    return write(folder / "t-images-idx3-ubyte.gz", idx(images))


# Form: writes PICTURES or GRAYS, and says whether labels come with them and in which order.
FORMS = {
    "folder": (lambda d, p: write_folder(d / "f", pngs(p)), False),
    "wrapped zip": (lambda d, p: write_zip(d / "f.zip", pngs(p, "photos/all/")), False),
    "folder of classes": (lambda d, p: write_folder(d / "f", by_class(p)), "by class"),
    "zip of classes": (lambda d, p: write_zip(d / "F.ZIP", by_class(p, "set/") | {"set/readme.md": b""}), "by class"),
    "parquet": (lambda d, p: parquet(d / "f.parquet", p), True),
    "declared parquet": (lambda d, p: declared_parquet(d / "f.parquet", p), True),
    "npz": (lambda d, p: savez(d / "f.npz", images=p, labels=LABELS), True),
}


def check_form(images: Samples, pictures: np.ndarray, labels: bool | str) -> None:
    order = BY_CLASS if labels == "by class" else np.arange(12)
    pictures = pictures[..., None] if pictures.ndim == 3 else pictures
    assert images.values.dtype == np.uint8
    np.testing.assert_array_equal(images.values, pictures[order].transpose(0, 3, 1, 2))
    assert images.shape == images.values.shape[1:] and len(images) == 12 == len(set(images.names))
    if not labels:
        assert images.labels is None
    else:
        assert images.labels is not None and images.labels.dtype == np.int64
        np.testing.assert_array_equal(images.labels, LABELS[order])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pictures", [PICTURES, GRAYS], ids=["color", "gray"])
def test_every_form_of_a_source_holds_the_same_images(form, pictures, tmp_path):
    make, labels = FORMS[form]
    check_form(read(make(tmp_path, pictures)), pictures, labels)


def test_an_idx_file_is_read_with_its_file_of_labels(tmp_path):
    check_form(read(idx_pair(tmp_path, GRAYS)), GRAYS, True)


def test_digits_are_read():
    images = read("digits")
    assert images.shape == (1, 8, 8) and len(images) == 1797
    assert images.values.max() == 255 and set(images.labels) == set(range(10))


def test_images_stay_held_out_when_others_are_added_or_removed(tmp_path):
    """Held out or not depends on the name: about the share asked for, whatever else the source holds."""

    def names(part: str) -> set[str]:
        return set(read(tmp_path, part, held_out=0.2).names)

    for i in range(400):
        Image.new("RGB", (2, 2), (i % 256, i // 256, 0)).save(tmp_path / f"{i}.png")
    before = names("test")
    assert 50 < len(before) < 110
    for i in range(0, 400, 3):
        (tmp_path / f"{i}.png").unlink()
    for i in range(400, 500):
        Image.new("RGB", (2, 2), (i % 256, i // 256, 0)).save(tmp_path / f"{i}.png")
    assert not names("train") & before and {n for n in names("test") if int(n[:-4]) < 400} <= before


@pytest.mark.parametrize("form", FORMS)
def test_held_out_images_are_the_same_every_time(form, tmp_path):
    check_held_out(FORMS[form][0](tmp_path, PICTURES))


@pytest.mark.parametrize("form", FORMS)
def test_copies_of_an_image_are_on_one_side(form, tmp_path):
    source = FORMS[form][0](tmp_path, PICTURES[[*range(6), *range(6)]])
    train, test = (read(source, part, held_out=0.4) for part in ("train", "test"))
    assert len(train) + len(test) == 12 and len(test) > 1
    assert not set(map(bytes, train.values)) & set(map(bytes, test.values))


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
@pytest.mark.parametrize("make", [write_folder, write_zip])
def test_folders_can_be_splits(test, make, tmp_path):
    files = pngs(PICTURES[:8], "w/train/") | pngs(PICTURES[8:], f"w/{test}/") | pngs(PICTURES[:3], "w/extra/")
    files |= {"__MACOSX/w/train/._00.png": b"", "w/.DS_Store": b"", "w/train/Thumbs.db": b"", "w/readme.md": b""}
    path = make(tmp_path / "f.zip", files)
    parts = {part: read(path, part) for part in ("train", "test", "all", "unseen")}
    assert {part: len(images) for part, images in parts.items()} == {"train": 8, "test": 4, "all": 15, "unseen": 4}
    np.testing.assert_array_equal(parts["test"].values, PICTURES[8:].transpose(0, 3, 1, 2))
    assert parts["train"].skipped == parts["all"].skipped == ["w/readme.md: not an image (.md)"]
    assert (len(read(path, "train", split="extra")), len(read(path, "test", split="extra"))) == (3, 4)
    with pytest.raises(InputError, match=r"^split: expected one of the splits extra, .*train.*, found dev$"):
        read(path, split="dev")


def test_without_a_test_split_some_of_the_train_split_is_held_out(tmp_path):
    write_folder(tmp_path, pngs(PICTURES, "1/train/") | pngs(PICTURES[:2], "1/extra/") | pngs(PICTURES, "2/test/"))
    # A test split that is trained on is no longer one to test on.
    for path, settings in ((tmp_path / "1", {}), (tmp_path / "2", {"split": "test"})):
        train, test = (read(path, part, **settings).names for part in ("train", "test"))
        assert len(train) + len(test) == 12 and test and not set(train) & set(test)
    with pytest.raises(InputError, match=r"2: expected a split called train, found test; choose one with `split`"):
        read(tmp_path / "2", "train")


def test_classes_are_the_same_numbers_in_every_split(tmp_path):
    files = by_class(PICTURES, "train/") | {"test/c2/x.png": png(PICTURES[0]), "train/masks/x.csv": b""}
    assert read(write_folder(tmp_path, files), "test").labels.tolist() == [2]


def test_an_image_outside_the_splits_has_no_label(tmp_path):
    path = write_folder(tmp_path, by_class(PICTURES, "train/") | {"preview.png": png(PICTURES[0])})
    train, everything = read(path, "train", held_out=0.01), read(path)
    assert train.labels is not None and train.skipped == ["preview.png: outside the folders of the splits"]
    assert len(everything) == 13 and everything.labels is None


def test_only_the_part_asked_for_is_decoded(tmp_path):
    path = write_folder(tmp_path, pngs(PICTURES, "train/") | {"test/broken.png": b"no", "test/good.png": png(GRAYS[0])})
    assert read(path, "train").skipped == []
    assert read(path, "test").skipped == ["test/broken.png: not an image"]


def test_links_to_folders_are_followed_without_loops(tmp_path):
    write_folder(tmp_path, pngs(PICTURES, "far/"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "train").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "far")
    assert len(read(tmp_path / "here")) == 12


def test_pipes_and_devices_are_skipped_and_named(tmp_path):
    """Reading a pipe would wait for ever."""
    write_folder(tmp_path, {f"{i}.png": png(picture) for i, picture in enumerate(PICTURES[:3])})
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    images = read(tmp_path, "all")
    assert images.skipped == ["pipe.png: not a regular file", "zero.png: not a regular file"] and len(images) == 3
    with pytest.raises(InputError, match="expected a file or a folder, found a pipe, a socket or a device"):
        read(tmp_path / "pipe.png", "all")


def test_names_in_archives_may_begin_at_any_folder(tmp_path):
    names = ["./a/0.png", "../b/1.png", "/c/2.png"]
    path = write_zip(tmp_path / "a.zip", {name: png(p) for name, p in zip(names, PICTURES[:3], strict=True)})
    assert read(path, "all").names == sorted(names)


def test_broken_images_are_never_all_that_is_held_out(tmp_path):
    for name in map(str, range(20)):
        path = write_zip(tmp_path / "a.zip", pngs(PICTURES[:3]) | {f"{name}.png": b"no"})
        assert len(read(path, "test")) == 1 and len(read(path, "train")) == 2


def test_a_parquet_names_no_files(tmp_path):
    """A path in a cell could be that of any file."""
    (tmp_path / "secret.png").write_bytes(png(GRAYS[0]))
    cells = [{"bytes": png(GRAYS[1]), "path": None}, {"bytes": None, "path": str(tmp_path / "secret.png")}]
    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet")
    images = read(tmp_path / "a.parquet", "all")
    assert len(images) == 1 and images.skipped == ["a.parquet[1]: without the bytes of an image"]


def test_one_image_can_be_trained_on(tmp_path):
    write_folder(tmp_path, {"a.png": png(GRAYS[0]), "readme.md": b""})
    assert read(tmp_path, "train").names == ["a.png"]
    with pytest.raises(InputError, match=r"expected 2 different images or more to hold some out, found 1$"):
        read(tmp_path, "test")


def test_data_sets_of_the_hub_are_read(monkeypatch):
    splits = {"train": declared(PICTURES, LABELS.tolist()), "test": declared(PICTURES[:4], [-1] * 4)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(splits))
    check_form(read("user/name-v1.5", "train"), PICTURES, True)
    test = read("name", "test")
    assert len(test) == 4 and test.labels is None and len(read("name")) == 16
    with pytest.raises(InputError, match=r"^split: expected one of the splits train, test, found dev$"):
        read("name", split="dev")
    rows = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"], "label": [1]})})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: rows)
    with pytest.raises(InputError, match=r"^source: name: expected a column of images, found columns text, label$"):
        read("name")


def test_a_hub_out_of_reach_is_asked_once(monkeypatch):
    """The mistake is more likely a folder's name: it is refused at once, unless the data set is in the cache."""

    def dataset_info(api, name, timeout):
        assert timeout <= 5
        raise ConnectionError("No route\nto host")

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    message = r"^source: user/name: no such file or folder, and the Hub could not be reached \(No route to host\)$"
    with pytest.raises(InputError, match=message):
        read("user/name")
    assert not datasets.config.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("source", "missing", "message"),
    [
        ("digits", "sklearn.datasets", r"^source: digits: expected scikit-learn \(pip install 'fvae\[digits\]'\), f"),
        ("mnist", "datasets", r"^source: mnist: expected datasets \(pip install 'fvae\[hub\]'\), found none$"),
    ],
)
def test_optional_libraries_are_asked_for(source, missing, message, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=message):
        read(source)


def test_reading_images_imports_no_large_optional_library(tmp_path):
    """A .parquet of images needs no library of Hugging Face's, whoever wrote it."""
    path = declared_parquet(tmp_path / "a.parquet", PICTURES)
    heavy = "print({'datasets', 'sklearn', 'matplotlib'} & set(sys.modules))"
    code = f"import sys, fvae.data; fvae.data.read_data({str(path)!r}); {heavy}"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


U8 = np.zeros((4, 3, 3), np.uint8)
MISUSES = {
    "no source": (lambda d: "", "^source: expected digits, .* found none$"),
    "no path": (lambda d: d / "none", "none: no such file or folder"),
    "no file": (lambda d: "none.zip", "^source: none.zip: no such file or folder$"),
    "one image": (lambda d: write(d / "a.png", png(U8[0])), "a.png: expected a folder .*, found one image file"),
    "other file": (lambda d: write(d / "a.doc", b""), r"expected a folder, .zip, .* found a .doc"),
    "empty folder": (lambda d: d, "expected images, found none in 0 files"),
    "no images": (
        lambda d: write_folder(d, {"a.md": b"", "b.png": b"no"}),
        r"expected images, found none in 2 files \(a.md: not an image \(.md\); b.png: not an image\)",
    ),
    "not a zip": (lambda d: write(d / "a.zip", b"no"), "a.zip: expected a zip archive, found none or a broken one"),
    "cut zip": (lambda d: cut(write_zip(d / "a.zip", pngs(U8))), "a.zip: expected a zip archive"),
    "not an npz": (lambda d: write(d / "a.npz", b"no"), "a.npz: expected an .npz, found none or a broken one"),
    "empty npz": (lambda d: write(d / "a.npz", b""), "a.npz: expected an .npz"),
    "npy": (lambda d: (np.save(d / "a.npy", U8), (d / "a.npy").rename(d / "a.npz"))[1], "expected an .npz"),
    "cut npz": (lambda d: cut(savez(d / "a.npz", images=U8)), "a.npz: expected an .npz"),
    "objects": (lambda d: savez(d / "a.npz", images=np.array([None])), "expected an .npz"),
    "other arrays": (lambda d: savez(d / "a.npz", z=U8, y=U8), "expected an array `images`, or `x` .*, found z, y"),
    "floats": (lambda d: savez(d / "a.npz", images=U8 / 1), "expected images of dtype uint8, found float64"),
    "channels first": (
        lambda d: savez(d / "a.npz", images=np.zeros((2, 3, 8, 8), np.uint8)),
        r"with C 1, 3 or 4, found \(2, 3, 8, 8\)",
    ),
    "flat": (lambda d: savez(d / "a.npz", images=U8[0]), "expected images .* found 2 dimensions"),
    "no arrays": (lambda d: savez(d / "a.npz", images=U8[:0]), "expected images, found none in 0 files"),
    "labels": (lambda d: savez(d / "a.npz", images=U8, labels=np.arange(3)), r"shape \(4,\), found int64 \(3,\)"),
    "float labels": (lambda d: savez(d / "a.npz", images=U8, labels=np.ones(4)), "integer labels .* found float64"),
    "not a parquet": (lambda d: write(d / "a.parquet", b"no"), "a.parquet: expected a .parquet"),
    "cut parquet": (lambda d: cut(parquet(d / "a.parquet", GRAYS)), "a.parquet: expected a .parquet"),
    "not a gz": (lambda d: write_folder(d, {"a.gz": b"no"}) / "a.gz", "a.gz: expected an idx .gz"),
    "cut gz": (lambda d: cut(write(d / "a.gz", idx(GRAYS))), "a.gz: expected an idx .gz"),
    "not an idx": (lambda d: write(d / "a.gz", b"hello"), "found one that begins with 68 65 6c 6c"),
    "short idx": (lambda d: write(d / "a.gz", b"\0\0\x08\x01\0\0\0\x09abc"), "expected 9 bytes .* found 3"),
    "float idx": (lambda d: write(d / "a.gz", b"\0\0\x0d\x01\0\0\0\0"), "uint8 .* found type 0d"),
    "idx of labels": (lambda d: write(d / "a.gz", idx(LABELS)), "expected images .* found 1 dimensions"),
    "labels of more": (lambda d: idx_pair(d, GRAYS[:5]), r"labels .* shape \(5,\), found uint8 \(12,\)"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_one_line_that_says_what_was_expected(name, tmp_path):
    make, message = MISUSES[name]
    with pytest.raises(InputError, match=message) as caught:
        read(make(tmp_path))
    assert caught.value.argument == "source" and "\n" not in str(caught.value)


def test_gigabytes_of_nothing_are_refused():
    check_expansion(2**20, 2**30)
    with pytest.raises(InputError, match=r"^expected data, found 2\.0 GiB compressed into 1\.0 MiB$"):
        check_expansion(2**20, 2**31)


def test_misuse_of_labels_and_splits(tmp_path):
    path = idx_pair(tmp_path, GRAYS)
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(b"no")
    with pytest.raises(InputError, match=r"^source: .*images-idx3-ubyte.gz: t-labels-.*.gz: expected an idx .gz"):
        read(path)
    with pytest.raises(InputError, match=r"^split: expected none, as the source has no splits, found train$"):
        read("digits", split="train")
    with pytest.raises(InputError, match=r"^part: expected train, test, all or unseen, found 'dev'$"):
        read("digits", "dev")


@pytest.mark.skipif(not REAL.exists(), reason="no real data in ../shared/data")
def test_real_data_sets_are_read():
    faces = read(REAL / "celeba64.zip", "test")
    assert faces.shape == (3, 64, 64) and len(faces) == 500 and faces.labels is None and faces.skipped == []
    digits = read(REAL / "mnist_test.npz")
    with np.load(REAL / "mnist_test.npz") as arrays:
        np.testing.assert_array_equal(digits.values[:, 0], arrays["images"][..., 0])
        np.testing.assert_array_equal(digits.labels, arrays["labels"])


def test_hidden_files_and_earlier_ones_of_a_name_are_reported(tmp_path):
    """What the system leaves in folders is no data; an image that nobody will miss may be."""
    files = pngs(PICTURES) | {
        ".55.png": png(PICTURES[0]),
        ".q/0.png": png(PICTURES[0]),
        ".q/notes": b"",
        "._1.png": b"",
    }
    images = read(write_folder(tmp_path / "f", files))
    assert images.skipped == [".55.png: hidden by a dot", ".q/0.png: hidden by a dot"] and len(images) == 12
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for picture in PICTURES[:3]:
            archive.writestr("a.png", png(picture))
        archive.writestr("b.png", png(PICTURES[3]))
    images = read(tmp_path / "f.zip")
    assert images.skipped == 2 * ["a.png: an earlier file of the same name"]
    np.testing.assert_array_equal(images.values, PICTURES[2:4].transpose(0, 3, 1, 2))


def test_one_class_alone_has_its_number_where_the_model_knows_it(tmp_path):
    files = by_class(PICTURES)
    model = read(write_folder(tmp_path / "all", files)).modality
    one = {name: content for name, content in files.items() if name.startswith("c1/")}
    for path in (write_folder(tmp_path / "one", one), write_zip(tmp_path / "one.zip", one)):
        samples = load_data(DataSettings(source=str(path)), "all", model)
        assert set(samples.numbered_as(model.classes).labels) == {1}
        assert read(path).labels is None


def test_of_several_pictures_in_a_file_the_first_is_taken_which_is_remarked(tmp_path):
    frames = [Image.fromarray(picture) for picture in PICTURES[:3]]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.gif")
    assert read(tmp_path).remarks == ["a.gif: the first of its pictures is taken"]
