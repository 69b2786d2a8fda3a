"""Causal video students that stream."""
