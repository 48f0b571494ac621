"""Zeros around a map as TensorFlow's `SAME` counts them, which depends on the size of the map."""

from __future__ import annotations


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """How many zeros are in front and behind, so that the result has ceil(size / stride) places.

    Where their number is odd, one more is behind: a map of 224 and a kernel of 7 at stride 2 have 2 and 3, where
    PyTorch's convolutions have 3 and 3.

    Args:
        size: Places along an axis of the map.
        kernel: Places of the kernel.
        stride: How far it moves.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
