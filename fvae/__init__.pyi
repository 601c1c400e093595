"""What type checkers and editors see of ``fvae``, whose names are imported when they are first used."""

from fvae import recipes as recipes
from fvae.columns import Column as Column
from fvae.columns import Schema as Schema
from fvae.data import Samples as Samples
from fvae.data import detect as detect
from fvae.data import read_data as read_data
from fvae.errors import InputError as InputError
from fvae.errors import MachineError as MachineError
from fvae.estimator import Density as Density
from fvae.interpolation import interpolate as interpolate
from fvae.model import LatentModel as LatentModel
from fvae.recipes import LSTM as LSTM
from fvae.recipes import MAF as MAF
from fvae.recipes import NICE as NICE
from fvae.recipes import BernoulliDecoder as BernoulliDecoder
from fvae.recipes import ColumnsDecoder as ColumnsDecoder
from fvae.recipes import FlowDecoder as FlowDecoder
from fvae.recipes import FlowPosterior as FlowPosterior
from fvae.recipes import GaussianDecoder as GaussianDecoder
from fvae.recipes import GaussianPosterior as GaussianPosterior
from fvae.recipes import Glow as Glow
from fvae.recipes import Grid as Grid
from fvae.recipes import Identity as Identity
from fvae.recipes import LatentDecoder as LatentDecoder
from fvae.recipes import LayerNormalized as LayerNormalized
from fvae.recipes import NoFlow as NoFlow
from fvae.recipes import Noise as Noise
from fvae.recipes import OneSided as OneSided
from fvae.recipes import RealNVP as RealNVP
from fvae.recipes import Squeezing as Squeezing
from fvae.recipes import Strided as Strided
from fvae.recipes import TextEncoder as TextEncoder
from fvae.recipes import Transformer as Transformer
from fvae.recipes import TwoSided as TwoSided
from fvae.runs import load as load
from fvae.runs import save as save
from fvae.settings import DataSettings as DataSettings
from fvae.settings import TrainSettings as TrainSettings
from fvae.statistics import initialize as initialize
from fvae.terms import Terms as Terms
from fvae.training import fit as fit

__version__: str
