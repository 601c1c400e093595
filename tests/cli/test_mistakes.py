"""Mistakes: each is one line on standard error that names the flag or file, status 2, and leaves no file."""

import pytest
import torch
from command_line import SENTENCES, SMALL, STEPS, TINY, contents

CLASSES = " ".join([*SMALL, *STEPS])
TRAIN = "train f_vae --data digits --out OUT/r " + " ".join(TINY)
TEXT = "train text_vae --data cats.txt --out OUT/r " + " ".join(SENTENCES)
LANGUAGE = "train language_model --data cats.txt --out OUT/r"
GLOW = "train glow --data digits --out OUT/r"
MISTAKES = {
    # names
    "trane": "trane: no such command; did you mean train? the commands are recipes, train, evaluate, sample,",
    "train fvae --data digits --out OUT/r": "fvae: no such recipe; did you mean f_vae? known are nice, realnvp, glow,",
    "train": "train: expected a recipe: fvae train RECIPE --data SRC --out RUN; fvae recipes lists them",
    "train f_vae --data digits": "the following arguments are required: --out (fvae train f_vae --help lists the",
    "train f_vae --out OUT/r": "--data: expected a source: digits, a Hugging Face data set, or a path, found none",
    "sample run": "--out: expected a name to write to, found none",
    "evaluate": "the following arguments are required: RUN (fvae evaluate --help lists the arguments)",
    f"{TRAIN} --train.stepz 3": "unrecognized argument --train.stepz; did you mean --train.steps? (fvae train f_vae",
    "sample run --temp 1 --out OUT/s.png": "unrecognized argument --temp; did you mean --temperature? (fvae sample",
    "evaluate run --jsn OUT/e": "unrecognized argument --jsn; did you mean --json? (fvae evaluate --help lists the",
    f"{TRAIN} --lr 0.1": "unrecognized argument --lr; did you mean --train.lr? (fvae train f_vae --help lists the",
    f"{TRAIN} stray": "unrecognized argument stray (fvae train f_vae --help lists the arguments)",
    f"{TRAIN} --recipe glow": "--recipe: is of recipe glow, the command says f_vae",
    # values
    f"{TRAIN} --train.steps abc": "--train.steps: input should be a valid integer, unable to parse string as an",
    f"{TRAIN} --train.lr": "--train.lr: expected one argument (fvae train f_vae --help lists the arguments)",
    f"{TRAIN} --model.coder.tanh perhaps": "--model.coder.tanh: input should be a valid boolean, unable to interpret",
    f"{TRAIN} --model.flow.mixing nope": "--model.flow.mixing: input should be 'conv', 'shuffle' or 'reverse', found",
    f"{TRAIN} --model x": "unrecognized argument --model; did you mean --model.flow? (fvae train f_vae --help lists",
    f"{TRAIN} --model.flow nix": "--model.flow: expected one of none, glow, realnvp, nice, maf, found nix",
    f"{TRAIN} --model.flow.depth 0": "--model.flow.depth: input should be greater than or equal to 1, found 0",
    f"{TRAIN} --model.flow.dpth 1": "unrecognized argument --model.flow.dpth; did you mean --model.flow.depth? (fvae",
    f"{TRAIN} --train.batch_size 9 --train.devices 2": "--train.batch_size: expected a multiple of the 2 devices,",
    f"{TRAIN} --train.accelerator nonsense": "--train.accelerator: nonsense: not possible on this machine: You",
    f"{TRAIN} --train.precision nonsense": "--train.precision: input should be '32-true' or 'bf16-mixed', found",
    f"{TRAIN} --train.reversible true --train.compile true": "--train.reversible: expected false with compile, since",
    # settings files
    f"{TRAIN} --config none.yaml": "none.yaml: no such file",
    f"{TRAIN} --config empty": "empty: expected a file, found a folder",
    f"{TRAIN} --config wide.png": "wide.png: not valid YAML ('utf-8' codec can't decode byte",
    f"{TRAIN} --config typo.yaml": "typo.yaml: train.stepz: no such setting; did you mean steps?",
    f"{TRAIN} --config section.yaml": "section.yaml: trian: no such setting; did you mean train?",
    "train f_vae --out OUT/r --config type.yaml": "type.yaml: train.steps: input should be a valid integer, unable to",
    "train f_vae --out OUT/r --config bool.yaml": "bool.yaml: train.steps: expected a number, found true",
    "train --out OUT/r --config model.yaml": "model.yaml: model.flow.depth: input should be greater than or equal to",
    f"{TRAIN} --config=none.yaml": "none.yaml: no such file",
    f"{TRAIN} --config": "--config: expected one argument (fvae train f_vae --help lists the arguments)",
    f"{TRAIN} --config flat.yaml": "flat.yaml: data: input should be a valid dictionary, found 'digits'",
    f"{TRAIN} --config broken.yaml": "broken.yaml: not valid YAML (line 2: expected the node content, but found ':'",
    f"{TRAIN} --config words.yaml": "words.yaml: expected settings by name (recipe, data, model, train), found str",
    f"{TRAIN} --config recipe.yaml": "recipe.yaml: is of recipe glow, the command says f_vae",
    "train --out OUT/r --config list.yaml": "list.yaml: recipe: input should be a valid string, found ['glow']",
    # data
    f"{TRAIN} --data ./nowhere": "--data: ./nowhere: no such file or folder",
    f"{TRAIN} --data empty": "--data: empty: expected images, found none in 0 files",
    f"{TRAIN} --data file.txt": "--data: file.txt: text needs a text recipe, as text_vae",
    f"{TRAIN} --model.coder.squeezes 7": "--model.coder.squeezes: expected at most 6 halvings of height and width 8x8",
    f"{TRAIN} --data.split nope": "--data.split: expected none, as the source has no splits, found nope",
    # the place to write to
    f"{TRAIN} --out run": "--out: run holds a run already: continue it with `resume`, or use another folder",
    "train vae --data images --out images": "--out: images: holds the data; use another folder",
    f"{TRAIN} --out model": "--out: model holds a run already: continue it with `resume`, or use another folder",
    f"{TRAIN} --out model --resume": "--resume: model has config.json but no config.yaml to resume from; use another",
    f"{TRAIN} --out file.txt/run": "--out: file.txt/run: expected a folder at file.txt, found a file",
    "sample run --out file.txt/s.png": "--out: file.txt/s.png: expected a folder at file.txt, found a file",
    "sample run --out OUT/s.foo": "--out: OUT/s.foo: expected a name that ends in .npz, .png, .jpg, ...",
    "sample run --out run": "--out: run: expected a folder for images, found a run",
    "sample run --out ": "--out: expected a path, found nothing (fvae sample --help lists the arguments)",
    "reconstruct run --out OUT/r.npz": "--out: OUT/r.npz: expected a name that ends in .png, .jpg, .jpeg, ...",
    "encode run --out OUT/c.png": "--out: OUT/c.png: expected a name that ends in .npz",
    "evaluate run --json run/config.json": "--json: run/config.json: belongs to a run; use another name",
    "sample run --out images": "--out: images: expected a new or empty folder, found one with files in it",
    "sample run --out s.png --seed 99999999999": "--seed: expected 0 or more and below 2^32, found 99999999999",
    "score run --data rows.csv --out rows.csv": "--out: rows.csv: is read by this command; use another name",
    "evaluate run --json empty": "--json: empty: expected a file's name, found a folder",
    "score run --out empty": "--out: empty: expected a name that ends in .csv",
    # resuming
    "train --out none --resume": "--resume: none holds no run to resume; name a recipe to begin one",
    "train --out run --resume --model.flow.depth 2": "--model.flow.depth: run was trained with 1 and cannot be",
    "train --out run --resume --data images": "--resume: run/checkpoints/last.ckpt was trained on other data than",
    "train --out run --resume --train.seed 1": "--train.seed: run was trained with 0 and cannot be resumed with 1,",
    "train glow --out run --resume": "run/config.yaml: is of recipe f_vae, the command says glow",
    "train --out cut_checkpoint --resume --train.steps 6": "cut_checkpoint/checkpoints/last.ckpt: not valid checkpoint",
    "train --out rows --resume --data digits": "rows/checkpoints/last.ckpt: model: has an unexpected",
    # tables
    f"{TRAIN} --data narrow.csv --data.size 8": "--data.size: expected no value but for images, found 8 for",
    "reconstruct rows --out OUT/r.png": "rows: expected a run on images or text, found one on tables; see fvae encode",
    "sample rows --temperatures 0,1 --out OUT/s.npz": "--temperatures: expected a run on images, found one on rows;",
    "sample rows --out OUT/s.png": "--out: OUT/s.png: expected a name that ends in .csv, .npz, for rows",
    "sample rows --label 1 --out OUT/s.csv": "--label: 1: rows holds a glow, which was trained without labels",
    "decode rows nan.npz --out OUT/d.png": "--out: OUT/d.png: expected a name that ends in .csv, .npz, for rows",
    "evaluate rows --data swapped.csv": "--data: swapped.csv: expected column a, found b",
    "evaluate rows --data digits": "--data: digits: expected rows as the model has, found images",
    "evaluate rows --data.size 8": "--data.size: expected no value but for images, found 8 for rows.csv, which holds",
    "score rows --data none.csv --out OUT/s.csv": "--data: none.csv: no such file or folder",
    "evaluate run --data rows.csv": "--data: rows.csv: expected images as the model has, found rows",
    "compare run rows --out OUT/c": "expected runs on data of one kind, found images and rows",
    # labels
    "sample classes --label 10 --out OUT/s.png": "--label: 10: expected a label of classes, which are 0 to 9",
    "sample classes --label ² --out OUT/s.png": "--label: ²: expected a label of classes, which are 0 to 9",
    f"train cvae --data images --out OUT/r {CLASSES}": "--data: images: expected labels, which cvae needs, found none",
    f"train cvae --data images --out OUT/r {CLASSES} --model.classes 2": "--data: expected labels from 0 to 1, for a",
    f"train cvae --data digits --out OUT/r {CLASSES} --model.classes 9": "--data: expected labels from 0 to 8, for a",
    f"{TRAIN} --model.classes 2": "--data: expected labels from 0 to 1, for a model of 2 classes, found 0 to 9",
    "evaluate classes --data images": "--data: images (the test split if it has one, else whole): expected labels",
    "encode both --data rows.csv --out OUT/c.npz": "--data: rows.csv (whole): expected labels from 0 to 1, for a",
    "decode classes unlabelled.npz --out OUT/d": "unlabelled.npz: expected `labels` (3,), with which classes was",
    "decode classes few_labels.npz --out OUT/d": "few_labels.npz: expected `labels` (3,), with which classes was",
    "decode classes mislabelled.npz --out OUT/d": "mislabelled.npz: expected labels from 0 to 9, for a model of 10",
    "interpolate classes wide.png wide.png --out OUT/i.png": "--labels: expected labels from 0 to 9, for a model of",
    "interpolate classes wide.png wide.png --labels 1 --out OUT/i.png": "--labels: expected one for each of 2 images,",
    "evaluate run --data images --data.color rgb": "--data.color: expected the model's gray, found rgb",
    "compare run --out run": "--out: run: expected a folder for the comparison, found a run",
    "interpolate classes --labels 1,2 --out OUT/i.png": "--labels: expected images to be named, whose labels these",
    "interpolate run wide.png wide.png --labels 1,2 --out OUT/i.png": "--labels: 1: run holds a f_vae, which was",
    # text
    "train vae --data cats.txt --out OUT/r": "--data: cats.txt: text needs a text recipe, as text_vae",
    "train text_vae --data digits --out OUT/r": "--data: digits: text_vae needs text, a .txt or .txt.gz",
    "evaluate text --data digits": "--data: digits: expected sentences as the model has, found images",
    "evaluate run --data cats.txt": "--data: cats.txt: expected images as the model has, found sentences",
    "interpolate text a ": "END: expected sentences, found an empty one",
    "reconstruct language": "language holds a language_model, which has no latent",
    "encode language --out OUT/c.npz": "language holds a language_model, which has no latent",
    "decode language nothing.npz --out OUT/c.txt": "language holds a language_model, which has no latent",
    f"{TEXT} --data.tokenizer bpe --data.vocabulary_size 259": "--data.vocabulary_size: expected 260 or more for byte",
    f"{TEXT} --data two.txt": "--data: this model normalizes over a batch; expected 2 different training sent",
    f"{TEXT} --train.compile": "--train.compile: expected samples of one shape; sentences have many lengths",
    f"{GLOW} --train.aggressive": "--train.aggressive: expected a Gaussian posterior of a flat latent, as vae, bn_vae",
    f"{GLOW} --train.aggressive --train.devices 2": "--train.aggressive: expected 1 device, whose loss says which",
    f"{GLOW} --train.free_nats_per_dim 1": "--train.free_nats_per_dim: expected a Gaussian posterior and prior, and",
    f"{LANGUAGE} --train.free_nats 1": "--train.free_nats: expected a model with a latent, whose rate it weighs;",
    "evaluate text_classes --data cats.txt --data.labels none": "--data.labels: none: expected a text file, found",
    "evaluate text_classes --data two.txt": "--data: two.txt (whole): expected labels from 0 to 1, for a model of 2",
    "evaluate text --data cats.txt --data.tokenizer bpe": "--data.tokenizer: bpe: text has a tokenizer of its own",
    "train --out text_classes --resume --train.aggressive true": "--train.aggressive: text_classes was trained with",
    "sample text --out OUT/x.png": "--out: OUT/x.png: expected a name that ends in .txt, for sentences",
    "sample run --top_p 0.9 --out OUT/x.png": "--top_p: expected a model of text, found one of images",
    "sample text --temperatures 0,1": "--temperatures: expected a run on images, found one on sentences; use",
    "sample text --top_p 0": "--top_p: input should be greater than 0, found 0",
    "sample text --top_p 0.5 --beam 2": "--top_p: expected no `beam` with it, which draws nothing",
    "sample text --beam 0": "--beam: input should be greater than or equal to 1, found 0",
    "reconstruct run": "--out: expected a name to write to, found none",
    # use
    "sample nowhere --out OUT/s.png": "nowhere: no such run folder",
    "sample empty --out OUT/s.png": "empty/config.json: no such file; a run folder has it from its first checkpoint on",
    "sample run --temperature -1 --out OUT/s.png": "--temperature: expected 0 to 100, found -1",
    "sample run --temperatures 0,x --out OUT/s.png": "--temperatures: expected numbers with commas between them,",
    "sample run --temperatures 0,-1 --out OUT/s.png": "--temperatures: expected 0 to 100, found -1",
    "sample run --temperatures 0,nan --out OUT/s.png": "--temperatures: expected 0 to 100, found nan",
    "sample run --n 0 --out OUT/s.png": "--n: expected 1 or more, found 0",
    "sample run --n x --out OUT/s.png": "--n: invalid int value: 'x' (fvae sample --help lists the arguments)",
    "evaluate run --samples 0": "--samples: expected 1 or more, found 0",
    "evaluate run --split nope": "--split: invalid choice: 'nope' (choose from 'train', 'test', 'all') (fvae evaluate",
    "evaluate run --data large": "--data: large: expected images of 8x8 gray, found images of 20x20 gray; resize them",
    "evaluate run --data.size 16": "--data.size: expected 8x8, the size of the model's images, found 16",
    "evaluate model": "--data: model has no config.yaml to say what it was trained on; name a source",
    "evaluate bad_settings": "bad_settings/config.yaml: data.size: expected a number of pixels, as 64, or height",
    "interpolate run wide.png a.png b.png --out OUT/i.png": "END: expected 2 images or sentences (a row) or 4 (a",
    "interpolate run wide.png none.png --out OUT/i.png": "END: expected an image, found none.png: No such file or",
    "interpolate run --steps 1 --out OUT/i.png": "--steps: expected 2 or more, found 1",
    "decode run none.npz --out OUT/d": "none.npz: no such file; expected an .npz, as fvae encode writes it",
    "decode run codes.txt --out OUT/d": "codes.txt: not valid NPZ (not a zip archive)",
    "decode run narrow.npz --out OUT/d": "narrow.npz: expected codes (N, 64) of floats for run, found (3, 5) of",
    "decode run nan.npz --out OUT/d": "nan.npz: expected finite codes of 32 bits, found NaN, infinity or larger ones",
    "compare run no_metrics --out OUT/c": "no_metrics/metrics.csv: no such file; a run has it",
    "compare run bad_metrics --out OUT/c": "bad_metrics/metrics.csv: expected numbers under step, seconds,",
    "compare run other_shape --out OUT/c": "expected runs with images of one shape, found run (8, 8, 1), other_shape",
    "demo --out run": "flow.levels: run was trained with 1 and cannot be resumed with 2, since its weights are",
    "demo --minutes 0 --out OUT/d": "--minutes: expected a number above 0, found 0",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(fvae, home, tmp_path, words):
    before = contents(home)
    status, _, err = fvae(*words.split(" "))
    assert (status, err.count("\n")) == (2, 1)
    assert err.replace(f"{home}/", "").replace(str(tmp_path), "OUT").startswith(f"fvae: {MISTAKES[words]}")
    assert contents(home) == before and not list(tmp_path.rglob("*"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without accelerator")
def test_an_absent_gpu_is_named(fvae):
    status, _, err = fvae(*TRAIN.split(), "--train.accelerator", "gpu")
    assert status == 2 and err.startswith("fvae: --train.accelerator: gpu: not possible on this machine: ")
