"""Diffusion language models: fewer steps for models of tokens."""
