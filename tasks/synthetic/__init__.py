"""Synthetic people: identities, domains, images and captions generated from integer seeds.

Nothing in this package imports torch, so that worker processes start quickly.
"""

GENERATOR_VERSION = 3
"""Part of every cache key and protocol lock. Increment it if any image or caption changes."""
