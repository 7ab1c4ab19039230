"""Naive twins: a page of plain PyTorch each, following the paper, sharing no code with the library."""
