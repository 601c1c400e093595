"""The fvae command, whose minutes are those of a core: its clock is the time that this process has computed.

usage: OMP_NUM_THREADS=1 python benchmarks/core_minutes.py train ... --train.minutes M

Comparisons at equal times then mean the same whatever else runs on the machine. metrics.csv has seconds of that clock.
"""

import sys
import time

import torch

import fvae.cli

torch.set_num_threads(1)  # the time of several would count several times
time.monotonic = time.process_time

if __name__ == "__main__":
    sys.exit(fvae.cli.main())
