"""Conditioners: who computes a transform's parameters, and from what.

The hinge between flows, which know no network, and networks, which know no probability. A conditioner is called with
the condition and returns a tuple of parameters, each broadcastable to what it transforms: here (mean, log_std). A plain
network is one, too: its output is split into the parameters. One that is conditioned on labels declares ``classes``.
"""

from fvae.conditioners.batch_norm import (
    BatchNorm,
    LayerNorm,
    OneSidedBatchNorm,
    RunningStatistic,
    TwoSidedBatchNorm,
    mean_over_processes,
)
from fvae.conditioners.bins import FromBins
from fvae.conditioners.classes import ClassMeans, RelativeToClass, relative_to_class
from fvae.conditioners.columns import FromColumns, feature_columns
from fvae.conditioners.constant import Constant, Empty, by_channel
from fvae.conditioners.features import WithFeatures
from fvae.conditioners.std import NetworkStd, OptimalStd, SharedStd
