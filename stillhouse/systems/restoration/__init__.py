"""Restoration: a clean image from a degraded one, in one call."""
