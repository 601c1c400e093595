"""The commands that use a run, on images, on tables and with labels."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import STEPS, picture, table

from fvae.cli import evaluate
from fvae.data import load_data
from fvae.data.pictures import to_uint8
from fvae.metrics import bounds
from fvae.recipes import RECIPES, Glow, glow
from fvae.runs import load, save
from fvae.settings import DataSettings

# Images


def test_recipes_are_listed(fvae):
    assert [line.split()[0] for line in fvae("recipes").out.splitlines()] == list(RECIPES)


def test_evaluate_and_score_agree(fvae, home, tmp_path):
    found = fvae("evaluate", "run", "--json", "OUT/e.json")
    assert found.status == 0 and "skipped" not in found.err
    e = json.loads((tmp_path / "e.json").read_text())
    assert e["recipe"] == "f_vae" and e["data"] == "digits (held out)" and e["images"] == 95 and e["dimensions"] == 64
    assert e["nats"] == pytest.approx(e["rate"] + e["distortion"])
    assert e["bits_per_dim"] == pytest.approx(e["nats"] / 64 / np.log(2))
    assert f"{e['bits_per_dim']:.4f}" in found.out
    best = table(home / "run/metrics.csv")[-1]["best_step"]
    assert str(e["step"]) == best and f"weights     of step {best}, chosen on held-out samples\n" in found.out
    assert fvae("score", "run", "--out", "OUT/s.csv").status == 0
    rows = table(tmp_path / "s.csv")
    assert len({row["name"] for row in rows}) == len(rows) == 95
    assert np.mean([float(row["nats"]) for row in rows]) == pytest.approx(e["nats"], abs=1e-3)
    assert np.mean([float(row["bits_per_dim"]) for row in rows]) == pytest.approx(e["bits_per_dim"], abs=1e-5)


def test_scores_of_several_draws_have_an_error(fvae, tmp_path):
    assert fvae("score", "run", "--samples", 3, "--batch_size", 50, "--out", "OUT/s.csv").status == 0
    rows = table(tmp_path / "s.csv")
    assert list(rows[0]) == ["name", "nats", "bits_per_dim", "nats_error"]
    assert all(0 < float(row["nats_error"]) < 1000 for row in rows)


def test_more_samples_tighten_the_bound(fvae, tmp_path):
    assert fvae("evaluate", "run", "--samples", 4, "--json", "OUT/e.json").status == 0
    e = json.loads((tmp_path / "e.json").read_text())
    assert e["samples"] == 4 and e["tighter_nats"] < e["nats"]
    assert e["tighter_bits_per_dim"] == pytest.approx(e["tighter_nats"] / 64 / np.log(2))


def test_one_image_gives_valid_json(fvae, home, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(home / "images/0.png", tmp_path / "one/0.png")
    assert fvae("evaluate", "run", "--data", "OUT/one", "--json", "OUT/e.json").status == 0
    e = json.loads((tmp_path / "e.json").read_text(), parse_constant=pytest.fail)
    assert e["images"] == 1 and e["bits_per_dim_error"] is None


def test_sample_writes_a_picture_an_array_and_a_folder(fvae, tmp_path):
    for out in ("a.png", "b.png", "c.npz", "folder", "a.jpg"):
        assert fvae("sample", "run", "--n", 6, "--seed", 3, "--out", f"OUT/{out}").status == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    images = np.load(tmp_path / "c.npz")["images"]
    assert images.shape == (6, 8, 8, 1) and images.dtype == np.uint8
    assert len(list((tmp_path / "folder").iterdir())) == 6
    np.testing.assert_array_equal(picture(tmp_path / "folder/00002.png"), images[2, :, :, 0])
    fvae("sample", "run", "--n", 6, "--seed", 4, "--out", "OUT/d.npz")
    assert (np.load(tmp_path / "d.npz")["images"] != images).any()


def test_temperature_scales_the_same_codes(fvae, tmp_path):
    fvae("sample", "run", "--n", 3, "--temperatures", "0,0.8", "--out", "OUT/t.npz")
    assert fvae("sample", "run", "--n", 3, "--temperatures", "0,0.8", "--out", "OUT/t.png").status == 0
    fvae("sample", "run", "--n", 3, "--out", "OUT/s.npz")
    found = np.load(tmp_path / "t.npz")
    assert found["temperatures"].tolist() == [0, 0.8]
    assert (found["images"][0] == found["images"][0, 0]).all()
    np.testing.assert_array_equal(found["images"][1], np.load(tmp_path / "s.npz")["images"])
    height, width = picture(tmp_path / "t.png").shape
    assert height == 2 + 2 * 50 and width > 3 * 50


def test_reconstructions_are_drawn_below_the_images(fvae, tmp_path):
    found = fvae("reconstruct", "run", "--n", 12, "--out", "OUT/r.png")
    assert found.status == 0 and "12 images of digits (held out), root mean square error" in found.out
    assert picture(tmp_path / "r.png").shape[0] == 2 + 4 * 50


def test_a_flow_reconstructs_exactly_which_is_said(fvae, tmp_path):
    save(glow((1, 8, 8), flow=Glow(levels=1, depth=1, width=4), bits=4), tmp_path / "g")
    found = fvae("reconstruct", "OUT/g", "--data", "digits", "--n", 3, "--out", "OUT/g.png")
    assert found.err.strip().endswith(
        "g: a glow reconstructs exactly by construction, which proves nothing of its training"
    )
    assert "root mean square error 0.000 of 255" in found.out


def test_a_model_worse_than_a_trivial_one_says_so(fvae):
    found = fvae("evaluate", "run")
    assert "run: worse than uniform bins (4.0000 bits/dim): perhaps 4 steps are too few, or the learning" in found.err


@pytest.mark.parametrize("ends", [[], ["images/0.png", "wide.png"], ["images/0.png", "wide.png", "small.webp"] * 2])
def test_an_interpolation_is_a_row_or_a_square(fvae, tmp_path, ends):
    ends = ends[:4]
    found = fvae("interpolate", "run", *ends, "--steps", 3, "--out", "OUT/i.png")
    assert found.status == 0
    assert found.err.count("resized and cropped from") == found.err.count("\n") == max(0, len(set(ends)) - 1)
    assert picture(tmp_path / "i.png").shape == (2 + (1 if len(ends) == 2 else 3) * 50, 2 + 3 * 50)


def test_codes_are_decoded_to_what_the_model_makes_of_them(fvae, home, tmp_path):
    assert fvae("encode", "run", "--data", "images", "--out", "OUT/c.npz").status == 0
    found = np.load(tmp_path / "c.npz")
    assert found["codes"].shape == (4, 64) and found["names"].tolist() == [f"{i}.png" for i in range(4)]
    assert fvae("decode", "run", "OUT/c.npz", "--out", "OUT/back").status == 0
    assert fvae("decode", "run", "OUT/c.npz", "--out", "OUT/back.npz").status == 0
    np.savez(tmp_path / "other.npz", **{**found, "model": np.array("0")})
    other = fvae("decode", "run", "OUT/other.npz", "--out", "OUT/other")
    assert other.status == 0 and "other.npz: codes of another model than run" in other.err
    back = np.load(tmp_path / "back.npz")["images"]
    np.testing.assert_array_equal(picture(tmp_path / "back/00003.png"), back[3, :, :, 0])
    model = load(home / "run")
    with torch.no_grad():
        again = model.decode(torch.from_numpy(found["codes"])).round().clamp(0, 15)
    np.testing.assert_array_equal(back[:, :, :, 0], (again[:, 0] * 17).byte())


def test_exact_codes(fvae, home, tmp_path):
    """Images that are kept unrounded have the codes that they were decoded from; those of 8 bits don't."""
    train = ["train", "glow", "--data", "digits", "--model.flow.levels", 1, "--model.flow.depth", 1, *STEPS]
    assert fvae(*train, "--model.flow.width", 8, "--out", "OUT/flow").status == 0
    run = f"{tmp_path}/flow"
    assert fvae("encode", run, "--data", "images", "--data.size", 8, "--out", "OUT/c.npz").status == 0
    errors = []
    for name, flags in (("exact", ["--exact"]), ("rounded", [])):
        assert fvae("decode", run, "OUT/c.npz", *flags, "--out", f"OUT/{name}.npz").status == 0
        assert fvae("encode", run, "--data", f"OUT/{name}.npz", "--out", f"OUT/{name}_codes.npz").status == 0
        codes = [np.load(tmp_path / f"{file}.npz")["codes"] for file in ("c", f"{name}_codes")]
        errors.append(np.abs(codes[0] - codes[1]).max())
    assert errors[0] < 1e-3
    images = np.load(tmp_path / "exact.npz")["images"]
    assert images.dtype == np.float32 and images.shape == (4, 1, 8, 8)
    assert fvae("decode", run, "OUT/c.npz", "--exact", "--out", "OUT/d").status == 2


def test_interpolation_between_codes_that_are_drawn(fvae, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert (
            fvae("interpolate", "run", "--drawn", "--seed", seed, "--steps", 3, "--out", f"OUT/{name}.png").status == 0
        )
    a, b, c = (picture(tmp_path / f"{name}.png") for name in "abc")
    assert a.shape == (2 + 3 * 50, 2 + 3 * 50) and (a == b).all() and (a != c).any()
    assert fvae("interpolate", "run", "images/0.png", "wide.png", "--drawn", "--out", "OUT/d.png").status == 2


def test_images_are_steered_from_one_set_towards_another(fvae, home, tmp_path):
    """The direction between a set and itself is none; a set that can't be read is named by its flag."""
    (tmp_path / "two").mkdir()
    for name in ("2.png", "3.png"):
        shutil.copy(home / "images" / name, tmp_path / "two")
    words = ["steer", "run", "images/0.png", "images/1.png"]
    found = fvae(*words, "--away", "images", "--towards", "OUT/two", "--strengths=-1,0,2", "--out", "OUT/s.png")
    assert found.status == 0 and "2 images, a direction of length" in found.out
    same = fvae(*words, "--away", "images", "--towards", "images", "--strengths", "0,5", "--out", "OUT/t.png")
    assert same.status == 0 and "a direction of length 0" in same.out
    assert fvae(*words, "--away", "images", "--towards", "none/", "--out", "OUT/u.png").err.startswith(
        "fvae: --towards: "
    )
    assert (
        fvae("steer", "classes", "images/0.png", "--away", "images", "--towards", "images", "--out", "OUT/u.png").status
        == 2
    )


def test_compare_writes_table_curves_and_samples(fvae, tmp_path):
    assert fvae("compare", "run", "bad_settings", "--n", 3, "--out", "OUT/c").status == 0
    rows = table(tmp_path / "c/table.csv")
    assert [row["run"] for row in rows] == ["run", "bad_settings"] and rows[0]["step"] == "4"
    assert (tmp_path / "c/table.md").read_text().count("\n") == 4
    assert picture(tmp_path / "c/samples.png").shape[0] == 2 + 2 * 50
    assert picture(tmp_path / "c/curves.png").size


@pytest.mark.parametrize(
    "words",
    [
        "evaluate model --data digits --split test",
        "evaluate model --data large --data.size 8",
        "sample model --out OUT/s.png",
        "reconstruct model --data images --out OUT/r.png",
        "interpolate model --data images --out OUT/i.png",
        "interpolate model images/0.png images/1.png --out OUT/i.png",
        "encode model --data images --out OUT/c.npz",
        "score model --data images --out OUT/s.csv",
    ],
)
def test_two_files_are_all_that_is_needed_to_use_a_model(fvae, words):
    found = fvae(*words.split())
    assert (found.status, found.err) == (0, "")


# Tables


@pytest.mark.parametrize("run", ["run", "text"])
def test_an_exported_run_is_used_as_before(fvae, home, tmp_path, run):
    """Without its checkpoints, settings and figures; into a new folder only."""
    found = fvae("export", run, "--out", "OUT/small")
    names = ["config.json", "model.safetensors", *(["tokenizer.json"] if run == "text" else [])]
    assert found.status == 0 and found.out.startswith(f"{tmp_path / 'small'}: {', '.join(names)} (")
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == names
    for name in names:
        assert (tmp_path / "small" / name).read_bytes() == (home / run / name).read_bytes()
    assert (
        fvae("sample", tmp_path / "small", "--n", 2, "--out", "OUT/s.txt" if run == "text" else "OUT/s.png").status == 0
    )
    found = fvae("export", run, "--out", "OUT/small")
    assert found.status == 2 and f"--out: {tmp_path / 'small'}: expected a new folder" in found.err


def test_evaluate_and_score_of_rows_are_in_nats(fvae, home, tmp_path):
    found = fvae("evaluate", "rows", "--samples", 2, "--json", "OUT/e.json")
    assert (found.status, found.err) == (0, "") and "bits" not in found.out and " rows of 3 columns" in found.out
    e = json.loads((tmp_path / "e.json").read_text())
    assert e["dimensions"] == 3 and e["bits"] is None and not {"images", "bits_per_dim"} & e.keys()
    assert e["nats"] == pytest.approx(e["rate"] + e["distortion"]) and f"{e['nats']:.4f}" in found.out
    assert e["tighter_nats"] == pytest.approx(e["nats"])  # the flow is exact, and its data have no noise
    assert e["samples"] == 1 and "upper bound" not in e["bound"] and "draw" not in found.out
    assert fvae("score", "rows", "--out", "OUT/s.csv").status == 0
    scores = table(tmp_path / "s.csv")
    assert list(scores[0]) == ["name", "nats"] and len(scores) == e["rows"] < 60
    assert np.mean([float(row["nats"]) for row in scores]) == pytest.approx(e["nats"], abs=1e-5)
    for source in ("rows.csv", "rows.npz"):  # the same, under names and without
        assert fvae("score", "rows", "--data", source, "--out", f"OUT/{source}.csv").status == 0
    a, b = (table(tmp_path / f"rows.{kind}.csv") for kind in ("csv", "npz"))
    assert len(a) == 60 and [row["nats"] for row in a] == [row["nats"] for row in b]


def test_scores_are_those_of_the_rows_alone(fvae, home, tmp_path):
    """Of columns that don't vary there, of one row, and of rows far outside, of which only codes are refused."""
    header, *rows = (home / "rows.csv").read_text().splitlines()
    first, far = rows[0].rpartition(",")[0], ",".join(["3.4e38"] * 3)
    files = {"calm": [f"{row.rpartition(',')[0]},0.1" for row in rows[:50]], "one": [f"{first},0.1"]}
    for name, lines in (files | {"far": [*rows[:9], far]}).items():
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *lines, ""]))
        words = ["--data", f"OUT/{name}.csv"]
        assert fvae("score", "rows", *words, "--out", f"OUT/{name}_scores.csv").status == 0
        assert fvae("evaluate", "rows", *words).status == 0
    calm, one, scores = (table(tmp_path / f"{name}_scores.csv") for name in ("calm", "one", "far"))
    assert len(calm) == 50 and calm[0]["nats"] == one[0]["nats"] and float(scores[9]["nats"]) > 1e70


def test_infinite_scores_are_counted_and_named(fvae, monkeypatch):
    """And averages are over the others, or over all, where all are."""

    def with_infinite(which):
        def infinite(*args, **options):
            found = bounds(*args, **options)
            found.loss[which] = found.rate[which] = np.inf
            return found

        return infinite

    monkeypatch.setattr(evaluate, "bounds", with_infinite(slice(3, 5)))
    found = fvae("evaluate", "rows", "--split", "all")
    message = r"2 of 60 rows have an infinite score, the first rows.csv\[\d+\]; averages are over the others\n"
    assert re.match(message, found.err)
    assert found.status == 0 and "inf" not in found.out and "nan" not in found.out
    monkeypatch.setattr(evaluate, "bounds", with_infinite(slice(0, 60)))
    assert "nats        inf " in fvae("evaluate", "rows", "--split", "all").out


def test_an_evaluation_ends_at_its_time_limit_unless_it_is_told_how_many(fvae, monkeypatch, tmp_path):
    """It then says how many were left out; in batches of any size."""
    monkeypatch.setattr(evaluate, "TIME_LIMIT", 0)
    words = ["evaluate", "run", "--batch_size", 30, "--device", "cpu", "--json", "OUT/e.json"]
    for given, n in (([], 30), (["--n", 7], 7), (["--n", 1000], 95)):
        found = fvae(*words, *given)
        left_out = f"evaluated {n} of 95 images, drawn at random; --n 95 evaluates all\n" if n < 95 else ""
        e = json.loads((tmp_path / "e.json").read_text())
        assert found.status == 0 and found.err.startswith(left_out) and (e["images"], e["left_out"]) == (n, 95 - n)
    found = fvae("score", "run", "--device", "nowhere", "--out", "OUT/s.csv")
    assert found.status == 2 and "--device: invalid choice: 'nowhere'" in found.err


def test_rows_are_drawn_as_csv_and_npz(fvae, tmp_path):
    """Under the data's columns and at temperature 1; what is drawn can be scored."""
    for out, temperature in (("a.csv", []), ("b.npz", ["--temperature", 1]), ("c.npz", ["--temperature", 0])):
        found = fvae("sample", "rows", "--n", 5, *temperature, "--out", f"OUT/{out}")
        assert (found.status, found.err) == (0, "")
    rows, x = table(tmp_path / "a.csv"), np.load(tmp_path / "b.npz")["x"]
    assert list(rows[0]) == ["a", "b", "c"] and x.shape == (5, 3) and x.dtype == np.float32
    np.testing.assert_array_equal(np.array([list(row.values()) for row in rows], np.float32), x)
    assert (np.ptp(np.load(tmp_path / "c.npz")["x"], axis=0) == 0).all()
    for source in ("a.csv", "b.npz"):
        assert fvae("score", "rows", "--data", f"OUT/{source}", "--out", "OUT/s.csv").status == 0
        assert len(table(tmp_path / "s.csv")) == 5


@pytest.mark.parametrize("out", ["back.csv", "back.npz"])
def test_codes_of_rows_give_the_rows_back(fvae, home, tmp_path, out):
    """Data to codes and back: exact to float32's precision."""
    assert fvae("encode", "rows", "--data", "rows.csv", "--out", "OUT/c.npz").status == 0
    codes = np.load(tmp_path / "c.npz")
    assert codes["codes"].shape == (60, 3) and "labels" not in codes and codes["names"][7] == "rows.csv[7]"
    found = fvae("decode", "rows", "OUT/c.npz", "--out", f"OUT/{out}")
    assert (found.status, found.out) == (0, f"{tmp_path / out}: 60 rows\n")
    back = load_data(DataSettings(source=str(tmp_path / out)), "all").values
    np.testing.assert_allclose(back / [1, 10, 0.1], np.load(home / "rows.npz")["x"] / [1, 10, 0.1], rtol=0, atol=3e-6)


def test_compare_of_tables_has_no_samples(fvae, tmp_path):
    found = fvae("compare", "rows", "both", "--out", "OUT/c")
    assert found.status == 0 and found.out.endswith(": table.md, table.csv, curves.png\n")
    rows = table(tmp_path / "c/table.csv")
    assert [(row["run"], row["unit"]) for row in rows] == [("rows", "nats"), ("both", "nats")]
    assert not {"bits", "tokens"} & rows[0].keys()  # of tables there is nothing to say
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["curves.png", "table.csv", "table.md"]


# Labels


def test_a_label_can_be_drawn(fvae, tmp_path):
    """With --label all are of it, without one they are drawn evenly; the same codes otherwise."""
    for out, label in (("a.npz", []), ("b.npz", ["--label", 3]), ("c.npz", ["--label", 4]), ("d.png", ["--label", 4])):
        found = fvae("sample", "classes", "--n", 50, *label, "--out", f"OUT/{out}")
        assert (found.status, found.err) == (0, "")
    a, b, c = (np.load(tmp_path / f"{name}.npz") for name in "abc")
    assert set(b["labels"]) == {3} and set(c["labels"]) == {4} and set(a["labels"]) == set(range(10))
    same = a["labels"] == 3
    np.testing.assert_array_equal(a["images"][same], b["images"][same])
    assert (b["images"] != c["images"]).any()
    assert fvae("sample", "classes", "--n", 2, "--temperatures", "0,1", "--label", 3, "--out", "OUT/t.npz").status == 0
    assert np.load(tmp_path / "t.npz")["labels"].tolist() == [3, 3]


def test_labels_of_rows_are_a_column(fvae, tmp_path):
    """Called label, so that what was drawn, or decoded, is data with labels again."""
    for out, label in (("a.csv", []), ("b.csv", ["--label", "y"]), ("c.npz", ["--label", 1])):
        assert fvae("sample", "both", "--n", 20, *label, "--out", f"OUT/{out}").status == 0
    a, b = (table(tmp_path / f"{name}.csv") for name in "ab")
    assert list(a[0]) == ["a", "b", "c", "label"]
    assert {row["label"] for row in a} == {"x", "y"} and {row["label"] for row in b} == {"y"}
    assert set(np.load(tmp_path / "c.npz")["labels"]) == {1}
    assert fvae("encode", "both", "--data", "OUT/a.csv", "--out", "OUT/e.npz").status == 0
    assert fvae("decode", "both", "OUT/e.npz", "--out", "OUT/back.csv").status == 0
    assert [row["label"] for row in table(tmp_path / "back.csv")] == [row["label"] for row in a]
    assert fvae("evaluate", "both", "--data", "OUT/back.csv").status == 0


def test_labels_are_matched_by_their_names(fvae, tmp_path):
    """A file that holds only some of the names a run was trained with gives them their numbers; another is refused."""
    assert fvae("sample", "both", "--n", 9, "--label", "y", "--out", "OUT/y.csv").status == 0
    assert fvae("encode", "both", "--data", "OUT/y.csv", "--out", "OUT/y.npz").status == 0
    assert set(np.load(tmp_path / "y.npz")["labels"]) == {1}
    (tmp_path / "z.csv").write_text((tmp_path / "y.csv").read_text().replace(",y", ",z"))
    found = fvae("encode", "both", "--data", "OUT/z.csv", "--out", "OUT/z.npz")
    assert found.status == 2 and "expected the labels x, y, found z" in found.err


@pytest.mark.parametrize(
    "words", ["", "--corners 2", "images/0.png wide.png --labels 3,4", "wide.png " * 4 + "--labels 0,0,9,9"]
)
def test_interpolate_between_labels(fvae, tmp_path, words):
    found = fvae("interpolate", "classes", *words.split(), "--steps", 3, "--out", "OUT/i.png")
    assert found.status == 0
    assert found.err == ("wide.png: resized and cropped from 21x30 to 8x8\n" if "wide" in words else "")
    rows = 1 if words.startswith(("--corners", "images")) else 3
    assert picture(tmp_path / "i.png").shape == (2 + rows * 50, 2 + 3 * 50)


def test_an_interpolation_between_two_labels_has_both_ends(fvae, home, tmp_path):
    """Between one image under two labels the first picture is the first's, the last the second's."""
    out = ["--steps", 2, "--out", "OUT/i.png"]
    assert fvae("interpolate", "classes", "images/0.png", "images/0.png", "--labels", "3,4", *out).status == 0
    model, x = load(home / "classes"), torch.from_numpy(picture(home / "images/0.png").copy())[None, None]
    for column, label in enumerate([3, 4]):
        y = torch.tensor([label])
        with torch.no_grad():
            expected = to_uint8(model.decode(model.encode(x, y), y), 8)[0, :, :, 0]
        found = picture(tmp_path / "i.png")[2:50:6, 2 + 50 * column : 50 + 50 * column : 6]
        np.testing.assert_array_equal(found, expected)


def test_codes_keep_their_labels(fvae, home, tmp_path):
    assert fvae("encode", "classes", "--split", "test", "--out", "OUT/c.npz").status == 0
    assert fvae("decode", "classes", "OUT/c.npz", "--out", "OUT/back.npz").status == 0
    codes, back = np.load(tmp_path / "c.npz"), np.load(tmp_path / "back.npz")
    digits = load_data(DataSettings(source="digits"), "test")
    np.testing.assert_array_equal(codes["labels"], digits.labels)
    np.testing.assert_array_equal(back["labels"], digits.labels)
    model = load(home / "classes")
    with torch.no_grad():
        y = torch.from_numpy(digits.labels)
        expected = to_uint8(model.decode(model.encode(torch.from_numpy(digits.values), y), y), 8)
    assert np.abs(back["images"].astype(int) - expected).max() <= 1


def test_evaluate_takes_the_labels(fvae, home, tmp_path):
    """Its bound is that of each image under its own label."""
    assert fvae("evaluate", "classes", "--json", "OUT/e.json").status == 0
    e = json.loads((tmp_path / "e.json").read_text())
    model, digits = load(home / "classes"), load_data(DataSettings(source="digits"), "test")
    others = replace(digits, labels=(digits.labels + 1) % 10)
    own, other = (bounds(model, data).loss.mean() for data in (digits, others))
    assert e["images"] == len(digits) and e["nats"] == own != other
