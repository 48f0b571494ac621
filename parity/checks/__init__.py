"""Proof that the twins are the same function: the only code that imports both frameworks."""

from .forward import check_forward, fits, required_bytes
from .parameters import random_images, random_parameters
from .report import ForwardReport, PrecisionReport

__all__ = [
    "ForwardReport",
    "PrecisionReport",
    "check_forward",
    "fits",
    "random_images",
    "random_parameters",
    "required_bytes",
]
