"""Text from its file to its figures: training, each command, and what they refuse."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_texts import LINES, settings, write

from fvae import aggressive, watch
from fvae import train as training
from fvae.checkpoint import load
from fvae.cli import main
from fvae.data import load_data
from fvae.data.text import Vocabulary
from fvae.information import Information

LM = ["--model.decoder.embedding", "8", "--model.decoder.hidden", "12", "--model.decoder.dropout", "0"]
TINY = ["--model.latent", "3", "--model.encoder.embedding", "8", "--model.encoder.hidden", "12", *LM]
STEPS = ["--train.steps", "6", "--train.every", "3", "--train.batch_size", "8", "--train.accelerator", "cpu"]
FLAGS = [*TINY, *STEPS, "--data.held_out", "0.3"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Runs on text, with and without labels or a latent, and one on digits. No test may change it."""
    home = tmp_path_factory.mktemp("text")
    write(home / "cats.txt", LINES * 8)
    write(home / "labels.txt", list("01101") * 8)
    source = ["--data", str(home / "cats.txt")]
    assert main(["train", "text_vae", *source, "--out", str(home / "run"), *FLAGS]) == 0
    labels = ["--data.labels", str(home / "labels.txt"), "--model.classes", "2"]
    assert main(["train", "text_vae", *source, *labels, "--out", str(home / "labelled"), *FLAGS]) == 0
    characters = ["--data.tokens", "character"]
    assert main(["train", "text_vae", *source, *characters, "--out", str(home / "characters"), *FLAGS]) == 0
    assert main(["train", "language_model", *source, "--out", str(home / "lm"), *LM, *STEPS]) == 0
    write(home / "two.txt", LINES[:2])
    np.savez(home / "c.npz", codes=np.zeros((2, 0), dtype=np.float32))
    digits = ["--model.coder.levels", "1", "--model.coder.size", "2", "--model.coder.width", "4", *STEPS]
    assert main(["train", "vae", "--data", "digits", "--out", str(home / "digits"), *digits]) == 0
    return home


@pytest.fixture
def fvae(home, tmp_path, capsys):
    """Run a command, HOME and OUT replaced by their folders: status, output and errors."""

    def call(*words):
        capsys.readouterr()
        status = main([str(w).replace("HOME", str(home)).replace("OUT", str(tmp_path)) for w in words])
        found = capsys.readouterr()
        return status, found.out, found.err

    return call


def test_a_run_on_text_is_all_there(home):
    run = home / "run"
    for name in ("config.yaml", "config.json", "model.safetensors", "tokenizer.json", "metrics.csv"):
        assert (run / name).is_file()
    assert len((run / "samples/step_0000006.txt").read_text().splitlines()) == 16
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["tokens"] == "word"
    assert load(run).sample(3).shape[0] == 3


def test_evaluate_says_what_people_ask_of_text(home, fvae, tmp_path):
    status, out, err = fvae("evaluate", "HOME/run", "--samples", 7, "--json", "OUT/e.json")
    assert (status, err) == (0, "")
    found = json.loads((tmp_path / "e.json").read_text())
    assert fvae("evaluate", "HOME/run", "--json", "OUT/f.json")[0] == 0
    assert json.loads((tmp_path / "f.json").read_text())["samples"] == 500
    assert found["samples"] == 7 and found["units"] == 3 and 0 <= found["active_units"] <= 3
    assert found["tokens"] == sum(len(LINES[int(name) % 5].split()) + 1 for name in held_out(home))
    assert found["perplexity"] == pytest.approx(math.exp(found["tighter_nats"] * found["sentences"] / found["tokens"]))
    assert found["mutual_information"] <= math.log(found["sentences"]) + 1e-6
    for text in ("perplexity", "ends of sentences counted", "mutual information", "units active", "another sample"):
        assert text in out


def held_out(home: Path) -> list[str]:
    """The numbers of the run's held-out lines."""
    data = load_data(settings(home / "cats.txt", held_out=0.3), "test")
    return [name[9:-1] for name in data.names]


def test_samples_are_printed_or_written(fvae, tmp_path):
    status, out, err = fvae("sample", "HOME/run", "--n", 5)
    assert (status, err) == (0, "") and len(out.splitlines()) == 5
    assert fvae("sample", "HOME/run", "--n", 5, "--out", "OUT/s.txt")[0] == 0
    assert (tmp_path / "s.txt").read_text() == out  # the same seed
    ways = [["--token_temperature", 0], ["--top_p", 0.5], ["--beam", 3], ["--temperature", 0, "--token_temperature", 0]]
    found = [fvae("sample", "HOME/run", "--n", 4, *way)[1].splitlines() for way in ways]
    assert all(len(lines) == 4 for lines in found) and len(set(found[3])) == 1
    assert fvae("sample", "HOME/labelled", "--n", 2, "--label", 1)[0] == 0


def test_sentences_come_back_between_and_as_codes(fvae, tmp_path):
    """reconstruct prints pairs, interpolate the way, decode what encode wrote, score a bound a line."""
    out = fvae("reconstruct", "HOME/run", "--n", 3)[1].splitlines()
    assert len(out) == 8 and out[2] == out[5] == "" and set(out[::3]) <= set(LINES)
    assert len(fvae("interpolate", "HOME/run", "the cat", "a dog sat", "--steps", 5)[1].splitlines()) == 5
    square = fvae("interpolate", "HOME/run", *"abcd", "--steps", 3)[1].splitlines()
    assert len(square) == 11 and square[3] == square[7] == ""
    assert len(fvae("interpolate", "HOME/run", "--steps", 4)[1].splitlines()) == 4  # between held-out ones
    assert fvae("encode", "HOME/run", "--data", "HOME/cats.txt", "--out", "OUT/c.npz")[0] == 0
    codes = np.load(tmp_path / "c.npz")
    assert codes["codes"].shape == (40, 3) and codes["names"][39] == "cats.txt[39]"
    assert fvae("decode", "HOME/run", "OUT/c.npz", "--out", "OUT/d.txt")[0] == 0
    assert len((tmp_path / "d.txt").read_text().splitlines()) == 40
    assert fvae("score", "HOME/run", "--data", "HOME/cats.txt", "--samples", 2, "--out", "OUT/s.csv")[0] == 0
    with open(tmp_path / "s.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and all(float(row["nats"]) > 0 for row in rows)
    assert fvae("compare", "HOME/run", "HOME/labelled", "--out", "OUT/report", "--n", 3)[:3:2] == (0, "")
    report = (tmp_path / "report/samples.md").read_text()
    assert report.count("\n- ") == 6 and report.startswith("## run\n") and "\n## labelled\n" in report
    assert (tmp_path / "report/table.csv").read_text().startswith("run,recipe,data,tokens,parameters,")
    with open(tmp_path / "report/table.csv") as file:
        assert [row["given"] for row in csv.DictReader(file)] == ["", "labels"]


def test_it_goes_on_where_it_was(home, tmp_path, fvae):
    """Six steps and six more are twelve, bit for bit, word dropout and annealing included."""
    noisy = ["--model.decoder.word_dropout", "0.3", "--model.decoder.dropout", "0.5", "--train.anneal", "cyclical"]
    noisy = [*FLAGS, *noisy, "--train.anneal_steps", "4"]
    source = ["--data", "HOME/cats.txt"]
    for name, steps in (("once", [12]), ("twice", [6, 12])):
        for n in steps:
            resume = ["--resume"] if n == 12 and name == "twice" else []
            words = ["train", "text_vae", *source, "--out", f"OUT/{name}", *noisy, "--train.steps", n, *resume]
            assert fvae(*words)[0] == 0
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "twice"))
    assert one == two


def test_aggressive_training_takes_turns(fvae, tmp_path):
    """In the posterior's turn nothing else moves; and a run that was stopped goes on so."""
    words = ["train", "text_vae", "--data", "HOME/cats.txt", *FLAGS, "--train.aggressive", "true", "--train.ema", "0"]
    assert fvae(*words, "--out", "OUT/a", "--train.steps", 3)[0] == 0
    assert fvae(*words, "--out", "OUT/b", "--train.steps", 6)[0] == 0
    a, b = load(tmp_path / "a"), load(tmp_path / "b")
    moved = {name for name, p in a.named_parameters() if not torch.equal(p, dict(b.named_parameters())[name])}
    assert moved and all(name.startswith("posterior.") for name in moved)  # the first fifteen steps at least
    status, _, err = fvae(*words, "--out", "OUT/a", "--train.steps", 6, "--train.every", 2, "--resume")
    assert status == 2 and "--train.every" in err  # at which it is decided whether turns go on
    assert fvae(*words, "--out", "OUT/a", "--train.steps", 6, "--resume")[0] == 0
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_training_weighs_the_rate(fvae, tmp_path):
    """One that is free, in all or in each dimension, is one of weight 0, where the first turn of aggressive training
    with annealing is too; half a weight, or annealing, is neither none nor all."""
    words = ["train", "text_vae", "--data", "HOME/cats.txt", *FLAGS, "--train.ema", "0", "--model.posterior=gaussian"]
    turns, line = ["--train.aggressive", "true"], ["--train.anneal", "linear", "--train.anneal_steps"]
    ways = {
        "one": [],
        "half": ["--train.beta", "0.5"],
        "zero": ["--train.beta", "0"],
        "free": ["--train.free_nats", "1e6"],
        "each": ["--train.free_nats_each", "1e6"],
        "line": [*line, "4"],
        "turns": turns,
        "turns zero": [*turns, "--train.beta", "0"],
        "turns line": [*turns, *line, "1"],
    }
    found = {}
    for name, way in ways.items():
        assert fvae(*words, *way, "--out", f"OUT/{name}")[0] == 0
        found[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert found["zero"] == found["free"] == found["each"] and found["turns zero"] == found["turns line"]
    assert len({found[name] for name in ("one", "half", "zero", "line", "turns", "turns zero")}) == 6


def test_turns_end_when_mutual_information_falls(fvae, tmp_path, monkeypatch):
    """It is looked at after a step of the decoder, in evaluation; when it has fallen, all learn."""
    told, seen, take = iter([1.0, 0.5]), [], aggressive.Turns.take

    def information(model, data):
        assert not model.training
        return Information(next(told), 3, 3, 0.0)

    def spy(turns, model):
        take(turns, model)
        assert model.training
        seen.append("".join(sorted({name[0] for name, p in model.named_parameters() if p.requires_grad})))

    monkeypatch.setattr(training, "information", information)
    monkeypatch.setattr(aggressive.Turns, "take", spy)
    monkeypatch.setattr(aggressive, "WINDOW", 1)
    monkeypatch.setattr(aggressive, "MOST", 2)
    words = ["train", "text_vae", "--data", "HOME/cats.txt", "--out", "OUT/a", *FLAGS, "--train.every", 1]
    assert fvae(*words, "--train.aggressive", "true", "--train.steps", 8)[0] == 0
    assert seen == ["p", "p", "d", "p", "p", "d", "dp", "dp"]  # posterior, decoder


def test_a_window_is_compared_by_the_token(fvae, monkeypatch):
    """What turns are told of a step: the loss of all its sentences, and their tokens."""
    told = []
    monkeypatch.setattr(aggressive.Turns, "after", lambda turns, loss, size: told.append((loss, size)))
    words = ["train", "text_vae", "--data", "HOME/cats.txt", "--out", "OUT/a", *FLAGS, "--train.aggressive", "true"]
    assert fvae(*words)[0] == 0
    sizes = [size for _, size in told]
    assert len(set(sizes)) > 1 and all(8 * 3 <= size <= 8 * 7 for size in sizes)  # of 2 to 6 words and an end
    assert all(1 < loss / size < 4 for loss, size in told)  # nats a token of 14, hardly trained


def test_unknown_words_are_said_before_training(fvae):
    words = ["train", "text_vae", "--data", "HOME/cats.txt", "--out", "OUT/a", *FLAGS, "--data.vocabulary", "6"]
    status, _, err = fvae(*words)
    assert status == 0
    for part in ("training", "held-out"):
        assert re.search(rf"warning: .* of the {part} sentences are unknown to the run's tokenizer\n", err)


def test_text_without_spaces_is_told_of(fvae, tmp_path):
    lines = ["江靜櫂歌歇，溪深樵語聞。", "海上生明月，天涯共此時。", "白日依山盡，黃河入海流。"]
    write(tmp_path / "chinese.txt", lines)
    words = ["train", "text_vae", "--data", "OUT/chinese.txt", "--out", "OUT/a", *FLAGS]
    status, _, err = fvae(*words)
    assert status == 0 and "; text without spaces between its words wants --data.tokens character\n" in err
    assert "warning: --train.batch_size 8: more than the 2 training sentences, which come several times in each" in err
    assert "without spaces" not in fvae(*words[:-1], "0.3", "--data.tokens=character", "--out", "OUT/b")[2]


def test_a_source_that_moved_is_named_with_its_run(home, fvae, tmp_path):
    shutil.copytree(home / "run", tmp_path / "run")
    shutil.copy(home / "cats.txt", tmp_path / "cats.txt")
    config = (tmp_path / "run/config.yaml").read_text()
    (tmp_path / "run/config.yaml").write_text(config.replace(str(home), str(tmp_path / "gone")))
    status, _, err = fvae("evaluate", "OUT/run")
    assert status == 2 and re.search(r"--data .*cats.txt: no such file, of which .*run was made; --data names", err)
    assert fvae("evaluate", "OUT/run", "--data", "OUT/cats.txt", "--split", "test", "--samples", 2)[0] == 0


def test_long_work_says_how_far_it_is(home, fvae, monkeypatch):
    """Every so often where there is no terminal."""
    assert fvae("evaluate", "HOME/run", "--samples", 2)[2] == ""
    monkeypatch.setattr(watch, "LINE_EVERY", 0.0)
    assert re.fullmatch(r"(evaluating  \d+%\n)+", fvae("evaluate", "HOME/run", "--data", "HOME/cats.txt")[2])


def test_a_perplexity_may_be_infinite(home):
    """That of a run that went astray; the JSON has null there."""
    data = load_data(settings(home / "cats.txt"), "all")
    assert data.modality.figures(data, {"nats": 1e5}) == {
        "tokens": int((data.values > 0).sum()),
        "perplexity": math.inf,
    }


WRONG = {
    "text for images": (
        ["train", "vae", "--data", "HOME/cats.txt", "--out", "OUT/r"],
        "text needs a text recipe",
    ),
    "images for text": (
        ["train", "text_vae", "--data", "digits", "--out", "OUT/r"],
        "digits: text_vae needs text",
    ),
    "another kind": (
        ["evaluate", "HOME/run", "--data", "digits"],
        "expected sentences as the model has, found images",
    ),
    "another kind, too": (
        ["evaluate", "HOME/digits", "--data", "HOME/cats.txt"],
        "expected images as the model has, found sentences",
    ),
    "empty": (["interpolate", "HOME/run", "a", " "], "interpolate: expected sentences, found an empty one"),
    **{
        command: ([command, "HOME/lm", *extra], f"{command}: .*lm holds a language_model, which has no latent")
        for command, extra in {
            "interpolate": ["a", "b"],
            "reconstruct": [],
            "encode": ["--out", "OUT/c.npz"],
            "decode": ["HOME/c.npz", "--out", "OUT/c.txt"],
        }.items()
    },
    "bytes": (
        ["train", "text_vae", "--data=HOME/cats.txt", "--out=OUT/r", "--data.tokens=bpe", "--data.vocabulary=259"],
        "--data.vocabulary 259: expected 260 or more",
    ),
    "one": (
        ["train", "text_vae", "--data", "HOME/two.txt", "--out", "OUT/r"],
        "--data: this model normalises over a batch; expected 2 training samples or more, found 1",
    ),
    "compile": (
        ["train", "text_vae", "--data", "HOME/cats.txt", "--out", "OUT/r", "--train.compile", "true"],
        "--train.compile: expected samples of one shape; sentences have many lengths",
    ),
    "labels": (["evaluate", "HOME/labelled", "--data", "HOME/cats.txt", "--data.labels", "HOME/none"], "no such file"),
    "no labels": (["evaluate", "HOME/labelled", "--data", "HOME/plain.txt"], "expected labels, found none"),
    "picture": (["sample", "HOME/run", "--out", "OUT/x.png"], "--out .*x.png: expected a name that ends in .txt"),
    "text flags": (
        ["sample", "HOME/digits", "--top_p", "0.9", "--out", "OUT/x.png"],
        "--top_p: is for text",
    ),
    "nowhere": (["sample", "HOME/digits"], "--out: expected a name to write to, found nothing"),
    "sweep": (["sample", "HOME/run", "--temperatures", "0,1"], "--temperatures: makes a row of images for each"),
    "top_p": (["sample", "HOME/run", "--top_p", "0"], "--top_p: expected a number above 0 and at most 1, found 0"),
    "both": (["sample", "HOME/run", "--top_p", "0.5", "--beam", "2"], "--top_p and --beam: expected one of them"),
    "beam": (["sample", "HOME/run", "--beam", "0"], "--beam: expected 1 or more, found 0"),
    "three": (["interpolate", "HOME/run", "a", "b", "c"], "expected 2 images or sentences .* or 4 .*, found 3"),
    "aggressive": (
        ["train", "glow", "--data", "digits", "--out", "OUT/r", "--train.aggressive", "true"],
        "--train.aggressive: needs a Gaussian posterior of a flat latent",
    ),
    "free": (
        ["train", "glow", "--data", "digits", "--out", "OUT/r", "--train.free_nats_each", "1"],
        "--train.free_nats_each: needs a Gaussian posterior and prior",
    ),
    "free, nothing": (
        ["train", "language_model", "--data", "HOME/cats.txt", "--out", "OUT/r", "--train.free_nats", "1"],
        "--train.free_nats: is for models with a latent, whose rate it weighs",
    ),
    "free each of nothing": (
        ["train", "language_model", "--data", "HOME/cats.txt", "--out", "OUT/r", "--train.free_nats_each", "1"],
        "--train.free_nats_each: is for models with a latent",
    ),
    "other tokens": (
        ["evaluate", "HOME/run", "--data", "HOME/cats.txt", "--data.tokens", "bpe"],
        "--data.tokens bpe: .*run has a tokenizer of its own",
    ),
    "no out": (["reconstruct", "HOME/digits"], "--out: expected a name to write to, found nothing"),
    "negative": (
        ["train", "text_vae", "--data", "HOME/cats.txt", "--out", "OUT/r", "--train.beta", "-1"],
        "--train.beta: expected 0 or more, found -1",
    ),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG.keys())
def test_mistakes_are_one_line(words, message, home, fvae, tmp_path):
    """And leave nothing behind."""
    if not (home / "plain.txt").exists():
        write(home / "plain.txt", LINES)
    status, _, err = fvae(*words)
    assert status == 2 and err.count("\n") == 1
    assert re.search(message, err), err
    assert not list(tmp_path.iterdir())


def test_a_run_does_not_depend_on_the_folder(home, fvae, tmp_path, monkeypatch):
    """Sources and labels that were given from one folder are found from another, and so a run goes on."""
    write(tmp_path / "l.txt", list("01101") * 8)
    shutil.copy(home / "cats.txt", tmp_path / "c.txt")
    words = ["train", "text_vae", "--out", "OUT/r", *FLAGS, "--model.classes", "2"]
    monkeypatch.chdir(tmp_path)
    assert fvae(*words, "--data", "c.txt", "--data.labels", "l.txt")[0] == 0
    monkeypatch.chdir(home)
    assert fvae("evaluate", "OUT/r", "--samples", 2)[0] == 0
    again = [*words[1:], "--train.steps", 7, "--resume"]
    assert fvae("train", *again, "--data", "OUT/c.txt", "--data.labels", "OUT/l.txt")[0] == 0


def test_a_run_of_an_older_version_goes_on(home, fvae, tmp_path):
    """Settings that its config.yaml doesn't know yet are those by default."""
    shutil.copytree(home / "digits", tmp_path / "r")
    config = yaml.safe_load((tmp_path / "r/config.yaml").read_text())
    for name in ("tokens", "vocabulary", "longest", "labels"):
        del config["data"][name]
    for name in ("beta", "anneal", "anneal_steps", "free_nats", "free_nats_each", "aggressive"):
        del config["train"][name]
    (tmp_path / "r/config.yaml").write_text(yaml.safe_dump(config))
    assert fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 7)[0] == 0


def test_empty_lines_are_told_once(fvae, tmp_path):
    """In training, by number; and not all of their names on the screen."""
    write(tmp_path / "gaps.txt", [line for pair in zip(LINES * 4, [""] * 20, strict=True) for line in pair])
    words = ["train", "text_vae", "--data", "OUT/gaps.txt", "--out", "OUT/r", *FLAGS, "--data.longest", 5]
    status, _, err = fvae(*words)
    assert status == 0 and "skipped 20 of 40 lines: gaps.txt[1]: empty; " in err
    assert "cut 8 sentences at 5 tokens" in err
    assert len((tmp_path / "r/skipped.txt").read_text().splitlines()) == 20 and err.count(": empty") == 3
    assert fvae("evaluate", "OUT/r", "--samples", 2)[2].count(": empty") == 0


def test_a_tokenizer_of_another_run_is_refused(home, fvae, tmp_path):
    """One that is missing, damaged, of other words, or of as many others."""
    run = tmp_path / "r"
    shutil.copytree(home / "run", run)
    own = (run / "tokenizer.json").read_text()
    for text, message in (
        (None, "tokenizer.json: no such file"),
        ("{}", "tokenizer.json: expected a tokenizer of Hugging Face's tokenizers"),
        (Vocabulary.built(["x y z"], "word", 20, 9).text, "not the tokenizer of .*: expected its 13 tokens, found 7"),
        (own.replace('"mat"', '"hat"'), "not the tokenizer of .*: expected its 13 tokens, found as many others"),
    ):
        (run / "tokenizer.json").unlink() if text is None else (run / "tokenizer.json").write_text(text)
        for words in (["sample", run], ["compare", run, "--out", "OUT/c"], ["train", "--out", run, "--resume"]):
            status, _, err = fvae(*words)
            assert status == 2 and re.search(message, err), err


def test_tokenizers_that_differ_are_said_so(fvae):
    """Figures of words and of characters don't compare."""
    status, _, err = fvae("compare", "HOME/run", "HOME/characters", "--out", "OUT/c")
    assert status == 0 and "warning: the runs have different tokenizers" in err


def test_an_unseen_script_is_unknown_and_said_so(fvae, tmp_path):
    """It can be scored; most of it is unknown, and a warning says how much."""
    write(tmp_path / "zh.txt", ["江靜櫂歌歇", "the cat"])
    status, _, err = fvae("score", "HOME/run", "--data", "OUT/zh.txt", "--samples", 1, "--out", "OUT/s.csv")
    assert status == 0 and "warning: 1 of 3 tokens (33 %) of" in err and "are unknown" in err
