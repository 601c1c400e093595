"""Networks in bfloat16, densities and weights in float32."""

import sys

import pytest
import torch

from fvae import fit
from fvae.flows.fused import CouplingNet
from fvae.recipes import Glow, glow


@pytest.mark.filterwarnings("ignore:precision bf16-mixed")
def test_bf16_keeps_the_flow_in_float32():
    """Under bf16-mixed the networks compute in bfloat16, terms and weights stay float32, and it trains."""
    model, images = glow((1, 8, 8), flow=Glow(levels=1, depth=2, width=16), bits=4), torch.randint(256, (64, 1, 8, 8))
    quick = {"batch_size": 16, "eval_samples": 64, "accelerator": "cpu", "progress": False}
    seen: dict[str, torch.dtype] = {}
    network = next(m for m in model.modules() if isinstance(m, CouplingNet))
    network.register_forward_hook(lambda m, args, out: seen.update(network=out.dtype))
    model.register_forward_hook(lambda m, args, out: seen.update(terms=out.log_z.dtype))
    fit(model, images, images, steps=6, precision="bf16-mixed", warmup=0, **quick)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert seen["terms"] == torch.float32
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="this CPU emulates bfloat16"):
        patch.setattr(sys.modules["fvae.training.fit"], "emulates_bfloat16", lambda device: True)
        fit(model, images, images, steps=1, precision="bf16-mixed", **quick)
    with torch.autocast("cpu", torch.bfloat16):
        model(images[:4] >> 4)
    assert seen["network"] == torch.bfloat16
