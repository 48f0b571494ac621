"""Tensors in files: bytes in, arrays out. Nothing here knows a model."""
