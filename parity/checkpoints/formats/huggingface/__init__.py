"""Hugging Face transformers: the directories that `save_pretrained` writes and `from_pretrained` loads.

A class of transformers is an `Architecture`: what of its `config.json` makes our config, and what its tensors are
called in files (since version 5 that isn't what they are called in memory). Both go in both directions.
Source: the `configuration_*.py` and `modeling_*.py` of transformers 5, which are the authority for the numerics.
"""

from .checkpoint import HOLDS, TARGET, is_huggingface, read, write
from .registry import ARCHITECTURES, MODEL_TYPES

__all__ = ["ARCHITECTURES", "HOLDS", "MODEL_TYPES", "TARGET", "is_huggingface", "read", "write"]
