"""What commands write for their users, and the names they refuse before any work is done."""

import csv
import io
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fvae.errors import UserError
from fvae.files import need_file, need_folder, write_bytes, write_text
from fvae.pictures import PICTURES, save_picture, square, to_image


def need_picture(out: Path) -> None:
    """Refuse a name that is no picture's, before the work is done; raises ``UserError``."""
    if out.suffix.lower() not in PICTURES:
        raise UserError(f"--out {out}: expected a picture's name that ends in {', '.join(PICTURES)}")
    need_file("--out", out)


def need_images_out(out: Path, folder: bool = True) -> None:
    """Refuse a name that ``write_images`` can't use, before the work is done; raises ``UserError``."""
    if folder and not out.suffix:
        if (out / "config.json").exists():
            raise UserError(f"--out {out}: expected a folder for images, found a run")
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"--out {out}: expected a new or empty folder, found one with files in it")
        return need_folder("--out", out)
    if out.suffix.lower() not in (".npz", *PICTURES):
        kinds = "a picture's name such as x.png, an .npz" + (", or a folder's name" if folder else "")
        raise UserError(f"--out {out}: expected {kinds}")
    need_file("--out", out)


def write_images(images: np.ndarray, out: Path, labels: np.ndarray | None = None) -> None:
    """A sheet for a picture's name, an array ``images`` (and ``labels``) for .npz, else a folder of numbered PNGs."""
    if out.suffix.lower() == ".npz":
        write_arrays(out, images=images, **({} if labels is None else {"labels": labels}))
    elif out.suffix:
        save_picture(square(images), out)
    else:
        for i, a in enumerate(images):
            save_picture(to_image(a), out / f"{i:05d}.png")


def need_rows_out(out: Path) -> None:
    """Refuse a name that ``write_rows`` can't use, before the work is done; raises ``UserError``."""
    if out.suffix.lower() not in (".csv", ".npz"):
        raise UserError(f"--out {out}: expected a name that ends in .csv or .npz, for rows of numbers")
    need_file("--out", out)


def write_rows(
    rows: np.ndarray, columns: list[str], out: Path, labels: np.ndarray | None = None, classes: Sequence[str] = ()
) -> None:
    """Rows (N, D) as .npz with ``x`` (and ``labels``), or as .csv under their columns' names (and ``label``).

    A label has the name that ``classes`` has for it.
    """
    if out.suffix.lower() == ".npz":
        return write_arrays(out, x=rows, **({} if labels is None else {"labels": labels}))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns] if labels is None else [*columns, "label"])
    known = [[]] * len(rows) if labels is None else [[classes[k] if classes else k] for k in labels]
    writer.writerows([*map(str, row), *label] for row, label in zip(rows, known, strict=True))
    write_text(out, text.getvalue())


def need_lines_out(out: Path) -> None:
    """Refuse a name that ``write_lines`` can't use, before the work is done; raises ``UserError``."""
    if out.suffix.lower() != ".txt":
        raise UserError(f"--out {out}: expected a name that ends in .txt, for sentences")
    need_file("--out", out)


def write_lines(lines: Iterable[str], out: Path) -> None:
    """A sentence a line."""
    write_text(out, "".join(f"{line}\n" for line in lines))


def write_arrays(out: Path, **arrays: np.ndarray) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    write_bytes(out, file.getvalue())


def read_codes(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays ``codes`` and, where there are, ``labels`` of an .npz; raises ``UserError``."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an .npz, as fvae encode writes it")
    try:
        if zipfile.is_zipfile(path):  # else NumPy would try a pickle
            with np.load(path, allow_pickle=False) as arrays:
                return np.asarray(arrays["codes"]), arrays.get("labels")
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    raise UserError(f"{path}: expected an .npz with an array `codes` of numbers, as fvae encode writes it")
