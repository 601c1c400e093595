"""Sample quality: FID and KID in the features of a small network trained on the data set, and sharpness.

The feature network is trained here, on the training images only, to predict by which multiple of 90 degrees an image
was rotated, which needs neither labels nor a download. Its distances compare models on one data set under one
network; they are not comparable with the FID of the Inception network. Images larger than 32x32 are seen at that size,
in all but their sharpness.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

FEATURES = 128


class Features(nn.Module):
    """Images (N, C, H, W) in 0 .. 255 to (N, 128); ``rotation`` returns the logits of the four rotations."""

    num_features = FEATURES  # required by torchmetrics

    def __init__(self, channels: int):
        super().__init__()

        def stage(a: int, b: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]

        self.body = nn.Sequential(
            *stage(channels, 32, 1), *stage(32, 64, 2), *stage(64, 64, 1), *stage(64, 128, 2), *stage(128, FEATURES, 1)
        )
        self.head = nn.Linear(FEATURES, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.float() / 127.5 - 1).mean((2, 3))

    def rotation(self, x: Tensor) -> Tensor:
        return self.head(self(x))


@torch.enable_grad()
def train_features(pixels: np.ndarray, path: Path, steps: int = 1500, batch: int = 64) -> Features:
    """The network trained on images (N, C, H, W) uint8, saved to ``path``, or loaded from it if it exists."""
    net = Features(pixels.shape[1])
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    correct = []
    for _ in range(steps):
        x = torch.from_numpy(pixels[random.integers(len(pixels), size=batch)])
        rotation = torch.randint(4, (batch,))
        x = torch.stack([torch.rot90(image, int(k), (1, 2)) for image, k in zip(x, rotation, strict=True)])
        logits = net.rotation(x)
        loss = F.cross_entropy(logits, rotation)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        correct.append((logits.argmax(1) == rotation).float().mean().item())
    print(
        f"{path}: predicts the rotation of {np.mean(correct[-100:]):.1%} of its last 6,400 training images", flush=True
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), path)
    return net.eval()


def sharpness(pixels: np.ndarray) -> float:
    """The variance of the Laplacian of gray images, averaged over (N, C, H, W)."""
    gray = torch.from_numpy(pixels).float().mean(1, keepdim=True)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return float(F.conv2d(gray, kernel).flatten(1).var(1).mean())


def smaller(pixels: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W) uint8 at no more than 32x32 pixels."""
    if max(pixels.shape[2:]) <= 32:
        return pixels
    return F.interpolate(torch.from_numpy(pixels).float(), size=(32, 32), mode="area").round().byte().numpy()


@torch.no_grad()
def quality(net: Features, real: np.ndarray, samples: np.ndarray) -> dict[str, float]:
    """FID, KID (times 1000) and the sharpness of samples over that of real images, all (N, C, H, W) uint8."""
    small = [(smaller(real), True), (smaller(samples), False)]
    fid = FrechetInceptionDistance(feature=net, input_img_size=tuple(small[0][0].shape[1:]))
    size = min(500, len(real), len(samples))
    kid = KernelInceptionDistance(feature=net, subset_size=size, subsets=20)
    torch.manual_seed(0)
    for images, are_real in small:
        for part in np.array_split(images, math.ceil(len(images) / 250)):
            fid.update(torch.from_numpy(part), real=are_real)
            kid.update(torch.from_numpy(part), real=are_real)
    return {
        "FID": float(fid.compute()),
        "KID x 1000": 1000 * float(kid.compute()[0]),
        "sharpness": sharpness(samples) / sharpness(real),
    }
