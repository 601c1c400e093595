"""The commands on text: training, and each use of a run."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from command_line import SENTENCES, table
from sources import LINES, read, write_lines

from fvae.cli import progress
from fvae.metrics import LatentInformation
from fvae.runs import load
from fvae.runs.folder import CHECKPOINT
from fvae.training import aggressive, trainer

TRAIN = ["train", "text_vae", "--data", "cats.txt", *SENTENCES]


# Training


def test_a_run_on_text_holds_its_tokenizer_and_samples(home):
    run = home / "text"
    for name in ("config.yaml", "config.json", "model.safetensors", "tokenizer.json", "metrics.csv"):
        assert (run / name).is_file()
    assert len((run / "samples/step_0000004.txt").read_text().splitlines()) == 16
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["tokenizer"] == "word"
    assert load(run).sample(3).shape[0] == 3


def test_a_run_on_text_is_resumed_bit_for_bit(fvae, tmp_path):
    """Four steps and four more are eight, word dropout and annealing included."""
    noisy = ["--model.decoder.word_dropout", 0.3, "--model.decoder.dropout", 0.5, "--train.anneal", "cyclical"]
    for name, steps in (("once", 8), ("twice", 4), ("twice", 8)):
        words = [*TRAIN, *noisy, "--train.anneal_steps", 3, "--out", f"OUT/{name}", "--train.steps", steps, "--resume"]
        assert fvae(*words).status == 0
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "twice"))
    assert one == two


def test_a_run_does_not_depend_on_the_folder(home, fvae, tmp_path, monkeypatch):
    """Sources and labels that were given relative to one folder are found from another, and a run is resumed there."""
    shutil.copy(home / "labels.txt", tmp_path / "l.txt")
    shutil.copy(home / "cats.txt", tmp_path / "c.txt")
    words = ["train", "text_vae", "--out", "OUT/r", *SENTENCES, "--model.classes", 2]
    monkeypatch.chdir(tmp_path)
    assert fvae(*words, "--data", "c.txt", "--data.labels", "l.txt").status == 0
    monkeypatch.chdir(home)
    assert fvae("evaluate", "OUT/r", "--samples", 2).status == 0
    again = ["--train.steps", 5, "--resume", "--data", "OUT/c.txt", "--data.labels", "OUT/l.txt"]
    assert fvae(*words, *again).status == 0


def test_aggressive_training_begins_with_the_posterior_and_is_resumed(fvae, tmp_path):
    """Aggressive training: while the posterior is trained nothing else moves."""
    words = [*TRAIN, "--train.aggressive", "--train.ema", 0, "--train.eval_interval", 3]
    for name, steps in (("a", 3), ("b", 6)):
        assert fvae(*words, "--out", f"OUT/{name}", "--train.steps", steps).status == 0
    a, b = (torch.load(tmp_path / name / CHECKPOINT, weights_only=True)["model"] for name in "ab")
    moved = {name for name, p in a.items() if not torch.equal(p, b[name])}
    assert moved and all(name.startswith("posterior.") for name in moved)  # the first fifteen steps at least
    resume = [*words, "--out", "OUT/a", "--train.steps", 6, "--resume"]
    found = fvae(*resume, "--train.eval_interval", 2)
    assert found.status == 2 and "--train.eval_interval: " in found.err  # by which it is decided when it is over
    assert fvae(*resume).status == 0
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_aggressive_training_ends_when_mutual_information_falls(fvae, monkeypatch):
    """It is computed after a step of the decoder, in evaluation; when it has fallen, all parts are trained."""
    known, seen, select = iter([1.0, 0.5]), [], aggressive.AggressiveSchedule.select

    def information(model, data):
        assert not model.training
        return LatentInformation(next(known), 3, 3, *7 * [0.0])

    def spy(schedule):
        select(schedule)
        seen.append("".join(sorted({name[0] for name, p in schedule.parameters if p.requires_grad})))

    monkeypatch.setattr(trainer, "latent_information", information)
    monkeypatch.setattr(aggressive.AggressiveSchedule, "select", spy)
    monkeypatch.setattr(aggressive, "WINDOW", 1)
    monkeypatch.setattr(aggressive, "MOST", 2)
    words = [*TRAIN, "--out", "OUT/a", "--train.aggressive", "--train.eval_interval", 1, "--train.steps", 8]
    assert fvae(*words).status == 0
    assert seen == ["p", "p", "d", "p", "p", "d", "dp", "dp"]  # posterior, decoder


def test_windows_of_losses_are_compared_by_the_token(fvae, monkeypatch):
    """The schedule gets the loss of all sentences of a step, and the number of their tokens."""
    seen = []
    monkeypatch.setattr(aggressive.AggressiveSchedule, "after", lambda schedule, loss, size: seen.append((loss, size)))
    assert fvae(*TRAIN, "--out", "OUT/a", "--train.aggressive").status == 0
    sizes = [size for _, size in seen]
    assert len(set(sizes)) > 1 and all(8 * 3 <= size <= 8 * 7 for size in sizes)  # of 2 to 6 words and an end
    assert all(1 < loss / size < 4 for loss, size in seen)  # nats a token of 14, hardly trained


def test_the_rate_is_weighed_in_training(fvae, tmp_path):
    """Free nats that are never reached are a weight of 0, which the first step of annealing has too; half a weight, or
    annealing, is neither none nor all."""
    line, turns = ["--train.anneal", "linear", "--train.anneal_steps"], ["--train.aggressive"]
    ways = {
        "one": [],
        "half": ["--train.beta", 0.5],
        "zero": ["--train.beta", 0],
        "free": ["--train.free_nats", 1e6],
        "each": ["--train.free_nats_per_dim", 1e6],
        "line": [*line, 4],
        "turns": turns,
        "turns zero": [*turns, "--train.beta", 0],
        "turns line": [*turns, *line, 1],
    }
    found = {}
    for name, way in ways.items():
        words = [*TRAIN, "--train.ema", 0, "--model.posterior=gaussian", *way, "--out", f"OUT/{name}"]
        assert fvae(*words).status == 0
        found[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert found["zero"] == found["free"] == found["each"] and found["turns zero"] == found["turns line"]
    assert len({found[name] for name in ("one", "half", "zero", "line", "turns", "turns zero")}) == 6


# What is said of data


def test_unknown_words_are_warned_of_in_training_and_in_use(fvae, tmp_path):
    found = fvae(*TRAIN, "--out", "OUT/a", "--data.vocabulary_size", 6)
    assert found.status == 0
    for part in ("training", "held-out"):
        assert re.search(rf"warning: .* of the {part} sentences are unknown to the model's tokenizer\n", found.err)
    write_lines(tmp_path / "zh.txt", ["江靜櫂歌歇", "the cat"])
    found = fvae("score", "text", "--data", "OUT/zh.txt", "--samples", 1, "--out", "OUT/s.csv")
    assert found.status == 0 and re.search(r"warning: 1 of 3 tokens \(33 %\) of .* are unknown", found.err)


def test_empty_lines_are_reported_once(fvae, tmp_path):
    """In training, by number; and not all of them on the screen."""
    write_lines(tmp_path / "gaps.txt", [line for pair in zip(LINES * 4, [""] * 20, strict=True) for line in pair])
    found = fvae(*TRAIN, "--data", "OUT/gaps.txt", "--out", "OUT/r", "--data.max_length", 5)
    assert found.status == 0 and "skipped 20 of 40 lines: gaps.txt[1]: empty; " in found.err
    assert "8 sentences truncated to 5 tokens" in found.err and found.err.count(": empty") == 3
    assert len((tmp_path / "r/skipped.txt").read_text().splitlines()) == 20
    assert fvae("evaluate", "OUT/r", "--samples", 2).err.count(": empty") == 0


def test_a_source_that_was_moved_is_named_with_its_run(home, fvae, tmp_path):
    shutil.copytree(home / "text", tmp_path / "run")
    shutil.copy(home / "cats.txt", tmp_path / "cats.txt")
    config = (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(config.replace(str(home), str(tmp_path / "gone")))
    status, _, err = fvae("evaluate", "OUT/run")
    assert status == 2
    assert re.search(r"--data: .*cats.txt: no such file, on which .*run was trained; name another source", err)
    assert fvae("evaluate", "OUT/run", "--data", "OUT/cats.txt", "--split", "test", "--samples", 2).status == 0


@pytest.mark.parametrize("words", ["sample OUT/r", "compare OUT/r --out OUT/c", "train --out OUT/r --resume"])
def test_the_tokenizer_of_another_run_is_refused(home, fvae, tmp_path, words):
    path = shutil.copytree(home / "text", tmp_path / "r") / "tokenizer.json"
    path.write_text(path.read_text().replace('"mat"', '"hat"'))
    status, _, err = fvae(*words.split())
    assert status == 2 and err.count("\n") == 1
    assert "not the tokenizer of" in err and "expected its 13 tokens, found as many others" in err


# Use


def test_evaluate_reports_perplexity_and_what_the_latent_holds(home, fvae, tmp_path):
    status, out, err = fvae("evaluate", "text", "--samples", 7, "--json", "OUT/e.json")
    assert (status, err) == (0, "")
    found = json.loads((tmp_path / "e.json").read_text())
    assert fvae("evaluate", "text", "--json", "OUT/f.json").status == 0
    assert json.loads((tmp_path / "f.json").read_text())["samples"] == 500
    held_out = [int(name[9:-1]) for name in read(home / "cats.txt", "test", held_out=0.3).names]
    assert found["samples"] == 7 and found["units"] == 3 and 0 <= found["active_units"] <= 3
    assert found["tokens"] == sum(len(LINES[i % 5].split()) + 1 for i in held_out)
    assert found["perplexity"] == pytest.approx(math.exp(found["tighter_nats"] * found["sentences"] / found["tokens"]))
    assert found["mutual_information"] <= math.log(found["sentences"]) + 1e-6
    for text in ("perplexity", "ends of sentences included", "mutual information", "units active", "another sample"):
        assert text in out


def test_progress_is_shown_without_a_terminal(fvae, monkeypatch):
    """A line now and then where there is no terminal."""
    assert fvae("evaluate", "text", "--samples", 2).err == ""
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    assert re.fullmatch(
        r"(evaluating for at most \d+ s  \d+%, \d+\.\d min left\n)+",
        fvae("evaluate", "text", "--data", "cats.txt", "--samples", 2).err,
    )


def test_samples_are_printed_or_written(fvae, tmp_path):
    status, out, err = fvae("sample", "text", "--n", 5)
    assert (status, err) == (0, "") and len(out.splitlines()) == 5
    assert fvae("sample", "text", "--n", 5, "--out", "OUT/s.txt").status == 0
    assert (tmp_path / "s.txt").read_text() == out  # the same seed
    ways = [["--token_temperature", 0], ["--top_p", 0.5], ["--beam", 3], ["--temperature", 0, "--token_temperature", 0]]
    found = [fvae("sample", "text", "--n", 4, *way).out.splitlines() for way in ways]
    assert all(len(lines) == 4 for lines in found) and len(set(found[3])) == 1
    assert fvae("sample", "text_classes", "--n", 2, "--label", 1).status == 0


def test_sentences_are_reconstructed_and_interpolated(fvae):
    """Pairs of a sentence and its reconstruction; rows from one end to the other, an empty line between rows."""
    lines = fvae("reconstruct", "text", "--n", 3).out.splitlines()
    assert len(lines) == 8 and lines[2] == lines[5] == "" and set(lines[::3]) <= set(LINES)
    assert len(fvae("interpolate", "text", "the cat", "a dog sat", "--steps", 5).out.splitlines()) == 5
    square = fvae("interpolate", "text", *"abcd", "--steps", 3).out.splitlines()
    assert len(square) == 11 and square[3] == square[7] == ""
    assert len(fvae("interpolate", "text", "--steps", 4).out.splitlines()) == 4  # between held-out ones


def test_sentences_are_encoded_decoded_and_scored(fvae, tmp_path):
    assert fvae("encode", "text", "--data", "cats.txt", "--out", "OUT/c.npz").status == 0
    codes = np.load(tmp_path / "c.npz")
    assert codes["codes"].shape == (40, 3) and codes["names"][39] == "cats.txt[39]"
    assert fvae("decode", "text", "OUT/c.npz", "--out", "OUT/d.txt").status == 0
    assert len((tmp_path / "d.txt").read_text().splitlines()) == 40
    assert fvae("score", "text", "--data", "cats.txt", "--samples", 2, "--out", "OUT/s.csv").status == 0
    rows = table(tmp_path / "s.csv")
    assert len(rows) == 40 and all(float(row["nats"]) > 0 for row in rows)


def test_runs_on_text_are_compared(fvae, tmp_path):
    """By their samples too; figures of words and of characters don't compare, of which a warning tells."""
    found = fvae("compare", "text", "text_classes", "--out", "OUT/c", "--n", 3)
    assert (found.status, found.err) == (0, "")
    report = (tmp_path / "c/samples.md").read_text()
    assert report.count("\n- ") == 6 and report.startswith("## text\n") and "\n## text_classes\n" in report
    assert (tmp_path / "c/table.csv").read_text().startswith("run,recipe,data,tokens,parameters,")
    assert [row["given"] for row in table(tmp_path / "c/table.csv")] == ["", "labels"]
    found = fvae("compare", "text", "characters", "--out", "OUT/d")
    assert found.status == 0 and "warning: the runs have different tokenizers" in found.err
