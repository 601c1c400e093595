"""The program as a whole: its help, faults of the machine, and how it ends when it is stopped."""

import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from command_line import ENVIRONMENT, contents, process, program, table

from fvae.cli import main, memory
from fvae.cli.dispatch import COMMANDS
from fvae.recipes import RECIPES
from fvae.runs import load
from fvae.runs.config import flat
from fvae.settings import DataSettings, TrainSettings

# Help


@pytest.mark.parametrize(
    ("code", "library"),
    [("from fvae.cli import main; main(['--help'])", "torch"), ("import fvae.cli.evaluate", "lightning")],
)
def test_no_command_waits_for_a_library_that_it_does_not_need(code, library):
    code = f"import sys; {code}; sys.exit('{library}' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(fvae, command):
    found = fvae(command, "--help")
    assert (found.status, found.err) == (0, "")
    assert found.out.startswith(f"usage: fvae {command}") and "<" not in found.out
    assert all(len(text.split()) > 1 for text in re.split(r"\n  -", found.out)[1:])  # each argument has a text


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_of_a_recipe_shows_every_setting_with_its_default(fvae, recipe):
    found = fvae("train", recipe, "--help")
    text = re.sub(r"-\s+", "-", " ".join(found.out.split()))  # argparse breaks lines at hyphens
    assert (RECIPES[recipe].__doc__ or "").splitlines()[0].rstrip(".") in text  # with its source
    groups = {
        "model": flat(RECIPES[recipe].settings().model_dump()),
        "data": vars(DataSettings()),
        "train": vars(TrainSettings()),
    }
    for group, defaults in groups.items():
        for name, default in defaults.items():
            flag = f"--{group}.{name}".removesuffix(".kind")
            entry = text.rpartition(f"{flag} ")[2]
            entry = re.split(r" --\S+ [A-Z{\[]", entry)[0]
            assert len(entry.split()) >= 3, f"{flag} has no text"
            shown = str(default).lower() if isinstance(default, bool) else default
            shown = f"{shown:g}" if isinstance(shown, float) else shown
            assert default in (None, "") or f"default: {shown})" in entry, flag


def test_help_shows_the_settings_of_the_kind_that_is_chosen(fvae):
    for words in (["--model.flow", "nice"], ["--model.flow=nice"], ["--model.flow.kind", "nice"]):
        text = fvae("train", "f_vae", *words, "--help").out
        assert "--model.flow.hidden" in text and "--model.flow.levels" not in text
    assert "--model." not in fvae("train", "--help").out  # without a recipe there are no settings of a model


# Faults of the machine


def limit(size: int) -> None:
    """Make the disk one on which no file of this process can be longer than ``size`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize(("name", "share"), [("model.safetensors", 0.5), ("checkpoints/last.ckpt", 0.97)])
def test_a_full_disk_spoils_nothing(home, fvae, tmp_path, name, share):
    """The checkpoint is what it was, the model is whole, nothing half-written is left, and the run can be resumed."""
    run, resume = tmp_path / "r", ["train", "--out", "OUT/r", "--resume", "--train.steps", 6]
    shutil.copytree(home / "run", run)
    before = contents(run)
    limit(int(share * (run / name).stat().st_size))
    try:
        status, _, err = fvae(*resume)
    finally:
        limit(resource.RLIM_INFINITY)
    assert (status, err.splitlines()[-1]) == (1, f"fvae: could not write {run}/{name}: File too large")
    assert not list(run.rglob("*.part"))
    assert (run / "checkpoints/last.ckpt").read_bytes() == before[run / "checkpoints/last.ckpt"]
    load(run)
    assert fvae(*resume).status == 0


def test_a_device_is_written_to_and_not_replaced(fvae, tmp_path):
    link = tmp_path / "full"  # a link, so that a mistake here can't harm the machine's own /dev
    link.symlink_to("/dev/full")
    found = fvae("evaluate", "run", "--json", link)
    assert (found.status, found.err) == (1, f"fvae: could not write {link}: No space left on device\n")
    assert link.is_symlink() and link.is_char_device()


def test_full_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        found = subprocess.run(program("recipes"), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (1, "fvae: standard output: No space left on device\n")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory."), RuntimeError("std::bad_alloc")])
def test_too_little_memory_is_one_line(fvae, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("fvae.cli.sample.load_model", fail)
    status, _, err = fvae("sample", "run", "--out", "OUT/s.png")
    assert (status, err.count("\n")) == (1, 1) and err.startswith("fvae: out of memory; ")


def test_too_little_memory_in_training_spoils_nothing(home, fvae, tmp_path, monkeypatch):
    """The run is what it was, and can be resumed."""
    run, resume = tmp_path / "r", ["train", "--out", "OUT/r", "--resume", "--train.steps", 6]
    shutil.copytree(home / "run", run)
    before = contents(run)

    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 38400000 bytes.")

    with monkeypatch.context() as patch:
        patch.setattr("fvae.training.trainer.Trainer.training_step", fail)
        status, _, err = fvae(*resume)
    assert status == 1 and err.splitlines()[-1].startswith("fvae: out of memory; ")
    after = contents(run)
    assert {path.name for path in before if after[path] != before[path]} == {"config.yaml"}
    assert fvae(*resume).status == 0


# Beginning and end


def test_training_prints_little_and_nothing_of_its_libraries(home, tmp_path):
    found = process("train", "--config", home / "run/config.yaml", "--out", tmp_path / "r")
    assert found.returncode == 0
    assert found.stdout.startswith(f"{tmp_path / 'r'}: step 4, best held-out ")
    assert [line.split()[0] for line in found.stderr.splitlines()] == ["training", "step", "step", f"{tmp_path / 'r'}:"]
    assert "r: worse than uniform bins (4.0000 bits/dim): perhaps 4 steps are too few" in found.stderr


def handle_interrupts() -> None:
    """A test that runs in the background of a shell would leave SIGINT ignored in its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("sent", "status", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_stopped_training_says_so_and_can_be_resumed(sent, status, said, home, tmp_path):
    """By a user, or by a machine that wants its place: no success, and nothing lost."""
    argv = ["train", "--config", home / "run/config.yaml", "--out", tmp_path / "r", "--train.steps", 100000]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(program(*argv), preexec_fn=handle_interrupts, env=ENVIRONMENT, **pipes) as child:
        began = time.monotonic()  # a busy machine takes its time
        while not (tmp_path / "r/checkpoints/last.ckpt").is_file() and time.monotonic() < began + 200:
            time.sleep(0.1)
        child.send_signal(getattr(signal, sent))
        _, err = child.communicate(timeout=60)
    assert child.returncode == status, err
    assert err.splitlines()[-1] == f"fvae: {said}; fvae train --out {tmp_path / 'r'} --resume continues it"
    assert "Traceback" not in err and "KeyboardInterrupt" not in err and not list(tmp_path.rglob("*.part"))
    step = int(table(tmp_path / "r/metrics.csv")[-1]["step"])
    assert main(["train", "--out", str(tmp_path / "r"), "--resume", "--train.steps", str(step + 4)]) == 0


def test_without_a_command_all_are_listed(fvae):
    text = fvae("--help").out
    assert text == fvae().out == fvae("help").out and all(f"\n  {name} " in text for name in COMMANDS)
    assert fvae("--version").out.startswith("fvae ")


@pytest.mark.skipif(sys.platform != "linux" or torch.accelerator.is_available(), reason="a limit on Linux without GPU")
def test_a_command_keeps_within_the_machine_s_memory(fvae, monkeypatch):
    """What is asked for beyond it is an error of one line; afterwards the process has the limit that it had."""
    from fvae.cli import recipes

    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(recipes, "run", lambda *_: torch.zeros(2**44).fill_(1))
    found = fvae("recipes")
    assert found.status == 1 and found.err.startswith("fvae: out of memory; a smaller model, smaller images or")
    monkeypatch.setattr(memory, "kibibytes", lambda file, name: 2**18)
    monkeypatch.setattr(recipes, "run", lambda *_: torch.zeros(2**30, dtype=torch.uint8).fill_(1))
    assert fvae("recipes").status == 1
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
