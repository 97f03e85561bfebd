"""Descriptions of images: asked of a model, checked, kept, exported, and judged."""
