"""What a GPU computes is what the CPU computes; and the command that measures one, at toy size on the CPU."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_table import data, every
from sources import png, write_folder

from fvae import fit
from fvae.recipes import Glow, Grid, Noise, f_vae_reduced

GPU = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.gpu
@needs_gpu
@every()
@torch.no_grad()
def test_a_model_is_the_same_on_the_gpu(row):
    model = row.moved().eval()
    x, y, u = data(model), model.draw_labels(6), model.noise(6)
    terms = model(x, y, u)
    model.to("cuda")
    found = model(x.cuda(), None if y is None else y.cuda(), u.cuda())
    for a, b in zip(terms[:4], found[:4], strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-2)
    e = model.codes(3)
    labels = model.draw_labels(3)
    assert model.decode(e, labels).device.type == "cuda"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_training_on_the_gpu_lowers_the_loss(precision):
    x = np.random.default_rng(0).integers(0, 64, (200, 3, 16, 16), dtype=np.uint8)
    parts = {"coder": Grid(levels=2, width=8), "flow": Glow(levels=1, depth=2, width=16)}
    model = f_vae_reduced((3, 16, 16), **parts, posterior=Noise(sigma=0.2, std="fixed", normalize=True))
    rows = fit(model, x, steps=100, eval_interval=50, precision=precision, accelerator="gpu", progress=False)
    assert rows[-1]["test_bits_per_dim"] < rows[0]["test_bits_per_dim"]


@pytest.mark.slow
def test_the_command_that_measures_a_gpu_works_on_a_cpu(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    write_folder(tmp_path / "data", {f"{i}.png": png(picture) for i, picture in enumerate(pictures)})
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--device", "cpu", "--size", "16"]
    words += ["--batches", "2", "--steps", "4", "--minutes", "0.02", "--modes", "float32", "--no-tests"]
    found = subprocess.run([sys.executable, str(GPU), *words], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| f_vae_faces | 2 | float32 |" in table and "| glow | 2 | float32 |" in table
    assert (tmp_path / "out" / "faces.png").exists() and "f_vae_faces, 0.02 minutes" in table
