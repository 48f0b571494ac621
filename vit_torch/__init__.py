"""Vision Transformers in PyTorch; NCHW images. Twin: `vit_jax`."""

from .checkpoint import load, save
from .models import create_model, list_models

__all__ = ["create_model", "list_models", "load", "save"]
