"""Pieces that architectures share. They know tensors, not requests."""
