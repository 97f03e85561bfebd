"""Measures the disentanglement of identity and clothing in runs of BDAM."""
