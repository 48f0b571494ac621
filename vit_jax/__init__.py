"""Vision Transformers in Flax NNX; NHWC images. Twin: `vit_torch`."""

from .checkpoint import load, save
from .models import create_model

__all__ = ["create_model", "load", "save"]
