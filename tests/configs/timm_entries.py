"""timm's entries, of the data directory: what its constructors were given, and how many parameters came of it.

`timm_entries.jsonl` holds each pretrained tag of timm 1.0.31 of the flat ViTs, the other files those of a family.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from parity import configs

DATA = Path(__file__).parents[1] / "data"


def read(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / file).read_text().splitlines()]


ENTRIES = read("timm_entries.jsonl")
SWIN_ENTRIES, PVT_ENTRIES = read("timm_swin_entries.jsonl"), read("timm_pvt_entries.jsonl")
HYBRID_ENTRIES, MOBILEVIT_ENTRIES = read("timm_hybrid_entries.jsonl"), read("timm_mobilevit_entries.jsonl")
OTHERS = (*SWIN_ENTRIES, *PVT_ENTRIES, *HYBRID_ENTRIES, *MOBILEVIT_ENTRIES)
ARCHITECTURES = {entry["name"].split(".")[0] for entry in (*ENTRIES, *OTHERS)}


def constructor_arguments(entry: dict[str, Any]) -> dict[str, Any]:
    """The arguments of timm's VisionTransformer; the distilled class passes most of them on."""
    arguments = dict(entry["kwargs"])
    return arguments.pop("kwargs", {}) | arguments


def at_the_size_of(entry: dict[str, Any]) -> configs.Config:
    """Our config with the classes and the image size of an entry."""
    arguments = constructor_arguments(entry)
    return configs.get(
        entry["name"].split(".")[0], num_classes=arguments["num_classes"], image_size=arguments["img_size"]
    )
