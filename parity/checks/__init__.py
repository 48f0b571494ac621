"""Proof that the twins are the same function: the only code that imports both frameworks."""

from .document import write_document
from .forward import check_forward
from .gradients import check_gradients
from .layers import check_layers
from .parameters import random_images, random_parameters
from .precision import check_precision
from .report import CheckReport, Part, PrecisionReport, to_json
from .target import fits, required_bytes
from .training import check_training

__all__ = [
    "CheckReport",
    "Part",
    "PrecisionReport",
    "check_forward",
    "check_gradients",
    "check_layers",
    "check_precision",
    "check_training",
    "fits",
    "random_images",
    "random_parameters",
    "required_bytes",
    "to_json",
    "write_document",
]
