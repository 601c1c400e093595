"""Data of any source, images, tables or text, as samples of their modality."""

from fvae.data.arrays import from_memory
from fvae.data.images import Images
from fvae.data.inspection import inspect
from fvae.data.loading import load_data, modality_of, read_data
from fvae.data.modality import Modality, Shape, Unit
from fvae.data.samples import Samples, hold_out
from fvae.data.table import Table
from fvae.data.table_files import detect
from fvae.data.text import Generation, Text
from fvae.data.tokenizer import TOKENIZER_FILE, Tokenizer
from fvae.data.typed_table import TypedTable

__all__ = [
    "TOKENIZER_FILE",
    "Generation",
    "Images",
    "Modality",
    "Samples",
    "Shape",
    "Table",
    "Text",
    "Tokenizer",
    "TypedTable",
    "Unit",
    "detect",
    "from_memory",
    "hold_out",
    "inspect",
    "load_data",
    "modality_of",
    "read_data",
]
