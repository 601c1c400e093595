"""Odd inputs of every command: each ends with sound output, or is refused in one line and leaves nothing behind.

Cases are drawn by a seed, a fixed number of them as far as the time allows. Others, and more of them:
    FUZZ_SEED=1 FUZZ_CASES=10000 FUZZ_SECONDS=600 python -m pytest tests/test_fuzz.py
A fault is named by its seed and number, by which ``run_case`` repeats it.
"""

import os
import random
import re
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pytest
from mutations import mutate_file
from sources import LINES, pngs, write_folder, write_lines

from fvae.cli import main

SEED, CASES, SECONDS = (
    int(os.environ.get(f"FUZZ_{k}", n)) for k, n in {"SEED": 0, "CASES": 800, "SECONDS": 40}.items()
)
LONGEST, MEMORY = 30, 2**32  # seconds of a command; bytes beyond those of this process
SHORT = "--train.steps 2 --train.eval_interval 1 --train.batch_size 4 --train.eval_samples 4 --data.held_out 0.3"
TRAIN = {  # a run of each modality: its name is the name of its data without the suffix
    "images": f"vae --model.coder.size 2 --model.coder.width 4 --model.coder.levels 1 {SHORT}",
    "rows.csv": f"realnvp --model.flow.depth 1 --model.flow.width 4 {SHORT}",
    "lines.txt": f"text_vae --model.latent 2 --model.encoder.hidden 4 --model.decoder.hidden 4 {SHORT}",
}
MORE = {"images": ["images.npz"], "rows.csv": ["rows.npz"], "lines.txt": []}  # sources of the same samples
COMMANDS = """
train RECIPE --data SOURCE --out new
train --data SOURCE --out RUN --resume --train.steps 3
evaluate RUN --data SOURCE --samples 2 --n 4 --json new.json
score RUN --data SOURCE --samples 2 --out new.csv
sample RUN --n 3 --out NEW
encode RUN --data SOURCE --out new.npz
decode RUN CODES --out NEW
reconstruct RUN --data SOURCE --n 2 --out NEW
interpolate RUN --data SOURCE --steps 3 --out NEW
interpolate RUN --drawn --steps 3 --out NEW
steer RUN SOURCE --away SOURCE --towards SOURCE --out NEW
compare RUN OTHER --n 2 --out new
export RUN --out new
convert old --out new
"""
NEW = {"images": "new.png", "rows.csv": "new.csv", "lines.txt": "new.txt"}
FLAGS = """
--n --samples --seed --batch_size --temperature --temperatures --label --token_temperature --top_p --beam --split
--steps --corners --labels --device --out --json --config --recipe --unknown --data --data.size --data.color
--data.labels --data.split --data.held_out --data.tokenizer --data.vocabulary_size --data.max_length
--data.allow_degenerate --model.coder --model.coder.size --model.coder.width --model.classes --model.flow
--model.flow.depth --model.flow.width --model.decoder --train.batch_size --train.accumulate --train.lr --train.warmup
--train.clip --train.beta --train.anneal --train.free_nats --train.ema --train.patience --train.checkpoint_minutes
--train.precision --train.seed --train.minutes --train.accelerator --train.devices --train.strategy
"""
WORDS = ["0", "-1", "2", "0.5", "nan", "inf", "-1e400", "1e-320", "9" * 400, str(2**63), "1_0", "\u0661", "1,2", "[1]"]
WORDS += ["", " ", "x", "none", "true", "{}", ",", "--", "-", "\0", "\U0001d518", "a" * 300, "a/b.npz", ".", ".."]
WORDS += ["images", "rows.csv", "lines.txt", "old", "missing", "/dev/null", "\udcff.csv", "run_rows/config.json"]
DOCUMENTS = [".json", ".yaml", ".csv", ".safetensors", ".ckpt"]
NOT_FINITE = re.compile(r"(?<![\w.])-?(nan|inf|infinity)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    """A folder with sources, a run on each, their codes, and a run of fvae 0.1."""
    folder = tmp_path_factory.mktemp("healthy")
    rng = np.random.default_rng(0)
    images, rows = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8), rng.normal(size=(40, 3))
    write_folder(folder, pngs(images, "images/"))
    np.savez(folder / "images.npz", images=images, labels=np.arange(12) % 2)
    np.savetxt(folder / "rows.csv", rows, delimiter=",", header="a,b,c", comments="")
    np.savez(folder / "rows.npz", x=rows)
    write_lines(folder / "lines.txt", [f"{line} {i}" for i, line in enumerate(LINES * 4)])
    shutil.copytree(Path(__file__).parent / "format_2/realnvp", folder / "old")
    with chdir(folder):
        for source, settings in TRAIN.items():
            run = f"run_{Path(source).stem}"
            assert main(["train", *settings.split(), "--data", source, "--out", run]) == 0
            assert main(["encode", run, "--data", source, "--out", f"{run}.npz"]) == 0
    return folder


def draw_case(rng: random.Random) -> list[str]:
    """A command whose arguments are odd, or whose input in this folder."""
    source = rng.choice(list(TRAIN))
    run, other = (f"run_{Path(name).stem}" for name in (source, rng.choice(list(TRAIN))))
    recipe, *settings = TRAIN[source].split()
    data = rng.choice([source, *MORE[source]])
    names = {"RECIPE": recipe, "SOURCE": data, "RUN": run, "CODES": f"{run}.npz", "OTHER": other, "NEW": NEW[source]}
    command = rng.choice(COMMANDS.strip().splitlines())
    argv = [names.get(word, word) for word in command.split()] + settings * ("RECIPE" in command)
    match rng.choice(["document", "data", "argument"]):
        case "document":
            files = Path("old" if argv[0] == "convert" else run).rglob("*.*")
            mutate_file(rng.choice(sorted(path for path in files if path.suffix in DOCUMENTS)), rng)
        case "data":
            path = Path(f"{run}.npz" if argv[0] == "decode" else data)
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            for path in rng.sample(files, rng.randint(1, len(files))):
                mutate_file(path, rng)
        case "argument":
            if rng.random() < 0.5:
                argv[rng.randrange(1, len(argv))] = rng.choice(WORDS)
            else:
                flags = [flag for flag in FLAGS.split() if ("." in flag) == (argv[0] == "train")]  # most of its own
                argv += [rng.choice(flags), rng.choice(WORDS)]
    return argv


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, every folder with None."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def not_finite(path: Path) -> bool:
    """Whether there is a number in a file that is none, or infinite."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return not all(np.isfinite(arrays[name]).all() for name in arrays if arrays[name].dtype.kind == "f")
    return path.suffix in (".csv", ".json") and bool(NOT_FINITE.search(path.read_text()))


class Hang(BaseException):
    """A command took too long."""


def hang(*_: Any) -> None:
    raise Hang


def run_case(healthy: Path, folder: Path, case: str) -> str:
    """Run a case in a new folder; what is wrong with how it ended, "" where nothing is."""
    rng = random.Random(case)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(healthy, folder)
    with chdir(folder), TemporaryFile("w+") as out, TemporaryFile("w+", errors="backslashreplace") as err:
        argv = draw_case(rng)
        before = contents(Path())
        signal.alarm(LONGEST)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                status = main(list(argv))
        except BaseException as error:
            frame = next((f for f in traceback.extract_tb(error.__traceback__)[::-1] if "/fvae/" in f.filename), "")
            return f"{case} {argv}: {type(error).__name__}: {error!s:.200} at {frame}"
        finally:
            signal.alarm(0)
        said, told = (file.seek(0) or file.read() for file in (err, out))
        fault = judge(argv, status, said, told, before, contents(Path()))
    return f"{case} {argv}: {fault}: status {status}: {said[-300:]}" if fault else ""


def judge(argv: list[str], status: int, said: str, told: str, before: dict, after: dict) -> str:
    lines = [line for line in said.splitlines() if line.startswith("fvae: ")]
    if status not in (0, 1, 2):
        return "another status"
    if status and lines != said.splitlines()[-1:]:
        return "not one line"
    new = [name for name in after if name not in before]
    if status == 2 and new and "training stopped" not in said:
        return f"left behind: {new[0]}"
    if part := [name for name in new if name.endswith(".part")]:
        return f"left behind: {part[0]}"
    outputs = [value for flag, value in pairwise(argv) if flag in ("--out", "--json") and status == 0]
    changed = [name for name in before if after.get(name, 0) != before[name] and Path(name).parts[0] not in outputs]
    if changed:
        return f"changed: {changed[0]}"
    figures = " ".join(word for word in told.split() if word.rstrip(":,") not in argv)
    if status == 0 and (NOT_FINITE.search(figures) or any(after[name] and not_finite(Path(name)) for name in new)):
        return "" if re.search("finite|nan", said) else "not a finite number, and no word of it"
    return ""


@pytest.fixture
def limits() -> Iterator[None]:
    """A command may take so many seconds, and so much memory."""
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, hang)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    signal.signal(signal.SIGALRM, handler)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_odd_inputs_end_with_sound_output_or_one_line(healthy, limits, tmp_path):
    faults, number, end = [], 0, time.monotonic() + SECONDS
    while number < CASES and time.monotonic() < end:
        if fault := run_case(healthy, tmp_path / "case", f"{SEED}:{number}"):
            faults.append(fault)
        number += 1
    assert not faults, f"{len(faults)} of {number} cases:\n" + "\n".join(faults)
