"""Finding the wrong line of a port: where two models part, and what may be wrong there."""

from .diff import diff
from .report import DiffReport

__all__ = ["DiffReport", "diff"]
