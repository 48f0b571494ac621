"""Data sets, decoding, augmentation and batching.

Importing this package needs numpy alone; grain, TFDS, scikit-learn and Pillow are imported by what uses them.
"""

from parity.configs.augmentation import Augmentation
from parity.configs.image_folder import FolderOptions
from parity.data.augment import augment_image, horizontal_flip, random_resized_crop, random_rotate, random_shift
from parity.data.decode import ImageWarning
from parity.data.loader import Batch, eval_batches, train_batches
from parity.data.source import Source
from parity.data.sources import default_data_dir, open_source
from parity.data.transforms import normalize, preprocess, resize_and_crop

__all__ = [
    "Augmentation",
    "Batch",
    "FolderOptions",
    "ImageWarning",
    "Source",
    "augment_image",
    "default_data_dir",
    "eval_batches",
    "horizontal_flip",
    "normalize",
    "open_source",
    "preprocess",
    "random_resized_crop",
    "random_rotate",
    "random_shift",
    "resize_and_crop",
    "train_batches",
]
