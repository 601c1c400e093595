"""The main job from end to end on data that ships inside a dependency."""

from pathlib import Path

from fvae import commands
from fvae.errors import UserError
from fvae.settings import DataSettings, TrainSettings

MODEL = {"flow": {"levels": 2, "depth": 5, "width": 64}, "bits": 4}


def demo(out: Path, minutes: float) -> None:
    """Train ``f_vae`` on the 8x8 digits and write samples, reconstructions and interpolations into the run folder.

    A demo that was stopped goes on; one that was finished makes its pictures again.
    """
    data = DataSettings(source="digits")
    train = TrainSettings(minutes=minutes, batch_size=128, lr=3e-3, every=500)
    if not minutes > 0:
        raise UserError(f"--minutes: expected a number above 0, found {minutes:g}")
    commands.train("f_vae", MODEL, data, train, out, resume=True)
    nothing = DataSettings()
    commands.evaluate(out, nothing, None, samples=10, seed=0, out=out / "metrics.json")
    commands.sample(out, n=64, temperature=0.8, out=out / "samples.png")
    commands.sample(out, temperatures=commands.TEMPERATURES, out=out / "temperatures.png")
    commands.reconstruct(out, nothing, None, 20, out / "reconstructions.png")
    commands.interpolate(out, [], nothing, None, 2, 9, out / "interpolation_2.png")
    commands.interpolate(out, [], nothing, None, 4, 7, out / "interpolation_4.png")
