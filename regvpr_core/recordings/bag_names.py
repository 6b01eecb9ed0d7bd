"""Which files are bags, by their names. Imports nothing that is slow to load."""

import os
from pathlib import Path

BAG_SUFFIXES = frozenset({'.bag', '.mcap', '.db3'})
PACKED, ACTIVE = frozenset({'.zstd', '.zst'}), '.active'


def bag_suffix(path: Path) -> str:
    """.bag, .mcap or .db3 by the name of a file: also of .BAG, .bag.active and .mcap.zstd."""
    name = path.name.lower()
    for end in (ACTIVE, *PACKED):
        name = name.removesuffix(end)
    suffix = os.path.splitext(name)[1]
    return suffix if suffix in BAG_SUFFIXES else ''
