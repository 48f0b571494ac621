"""Vision Transformers in Flax NNX; NHWC images. Twin: `vit_torch`."""

from .checkpoint import load, save
from .models import create_model, list_models
from .preprocess import preprocess

__all__ = ["create_model", "list_models", "load", "preprocess", "save"]
