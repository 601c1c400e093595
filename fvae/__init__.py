"""fvae: VAEs, normalizing flows and everything between them, under one objective.

``fvae.load`` and ``fvae.initialize`` are imported when they are first asked for, so that the command's help, which
needs neither, does not wait for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fvae.checkpoint import load, save
    from fvae.statistics import initialize

__version__ = "0.1.0"
__all__ = ["__version__", "initialize", "load", "save"]


def __getattr__(name: str) -> Any:
    if name == "initialize":
        from fvae.statistics import initialize

        return initialize
    if name in ("load", "save"):
        from fvae import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module 'fvae' has no attribute {name!r}")
