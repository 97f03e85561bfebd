"""Measures the disentanglement of identity and clothing in BDAM runs on synthetic people."""
