"""Embedders: texts become unit vectors. One kind a file, chosen by `EmbedderSpec.parse`.

spec       what the user named: which kind, its settings, and the hashes that identify its vectors
static     one vector per token, and their weighted mean: fast, on any CPU
encoder    a `transformers` model in a local directory
function   a user's function
vectors    vectors that exist already, in .npy or Parquet files
unit       unit norm; what has no direction has failed
files      safetensors, tokenizer.json, hashes
"""

from mixstream.selection.embedders.files import hash_model_file
from mixstream.selection.embedders.function import find_function, hash_of_function
from mixstream.selection.embedders.spec import Embedder, EmbedderSpec
from mixstream.selection.embedders.unit import Embedded, unit_rows
from mixstream.selection.embedders.vectors import ExistingVectors

__all__ = [
    "Embedded",
    "Embedder",
    "EmbedderSpec",
    "ExistingVectors",
    "find_function",
    "hash_model_file",
    "hash_of_function",
    "unit_rows",
]
