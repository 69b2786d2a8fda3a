"""Tests that notice: small slips are put into the code one at a time, and each has to make a test fail.

``slips`` makes them, ``covering`` finds the tests that run a line, ``forked`` runs tests with one slip in
place, ``equivalent`` holds those that change nothing, and ``__main__`` is ``python -m tools.mutants``.
Nothing of the tree is written: a mutant lives in one forked process.
"""
