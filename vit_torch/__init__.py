"""Vision Transformers in PyTorch; NCHW images. Twin: `vit_jax`."""

from .checkpoint import load, save
from .models import create_model

__all__ = ["create_model", "load", "save"]
