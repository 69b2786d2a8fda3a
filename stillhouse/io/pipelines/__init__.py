"""Diffusers pipelines as teachers: one short adapter class per family, read from a local folder, a single
file or a named hub model."""

from stillhouse.io.pipelines.base import Family
from stillhouse.io.pipelines.folder import open_pipeline
from stillhouse.io.pipelines.registry import family_for, register

__all__ = ["Family", "family_for", "open_pipeline", "register"]
