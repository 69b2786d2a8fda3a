"""The loop that walks a model along a grid, and how a student is sampled."""
