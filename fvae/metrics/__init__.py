"""What a trained model says of data: bounds on the likelihood, and what the latent holds."""

from fvae.metrics.bounds import Bounds, batches, bounds, check_labels, encode, nats_by_column, summary
from fvae.metrics.latent import LatentInformation, has_gaussian_posterior, latent_information, verdict

__all__ = [
    "Bounds",
    "LatentInformation",
    "batches",
    "bounds",
    "check_labels",
    "encode",
    "has_gaussian_posterior",
    "latent_information",
    "nats_by_column",
    "summary",
    "verdict",
]
