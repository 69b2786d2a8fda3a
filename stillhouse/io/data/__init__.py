"""A user's own data: images with captions and lists of prompts, read with care, encoded once and kept."""

from stillhouse.io.data.cache import Cache, open_cache
from stillhouse.io.data.contents import Contents
from stillhouse.io.data.encode import encode_prompts, encode_source
from stillhouse.io.data.prepare import buckets, nearest, to_tensor
from stillhouse.io.data.prompts import read_prompts, split_prompts
from stillhouse.io.data.rows import Row, Source
from stillhouse.io.data.sources import open_source

__all__ = [
    "Cache",
    "Contents",
    "Row",
    "Source",
    "buckets",
    "encode_prompts",
    "encode_source",
    "nearest",
    "open_cache",
    "open_source",
    "read_prompts",
    "split_prompts",
    "to_tensor",
]
