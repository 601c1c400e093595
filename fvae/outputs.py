"""What commands write for their users, and the names they refuse before any work is done."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from fvae.errors import UserError
from fvae.files import need_file, need_folder, write_bytes
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


def write_images(images: np.ndarray, out: Path) -> None:
    """A sheet for a picture's name, an array ``images`` for .npz, else a folder of numbered PNGs."""
    if out.suffix.lower() == ".npz":
        write_arrays(out, images=images)
    elif out.suffix:
        save_picture(square(images), out)
    else:
        for i, a in enumerate(images):
            save_picture(to_image(a), out / f"{i:05d}.png")


def write_arrays(out: Path, **arrays: np.ndarray) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    write_bytes(out, file.getvalue())


def read_codes(path: Path) -> np.ndarray:
    """The array ``codes`` of an .npz; raises ``UserError``."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an .npz, as fvae encode writes it")
    try:
        if zipfile.is_zipfile(path):  # else NumPy would try a pickle
            with np.load(path, allow_pickle=False) as arrays:
                return np.asarray(arrays["codes"])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    raise UserError(f"{path}: expected an .npz with an array `codes` of numbers, as fvae encode writes it")
