"""Text descriptions of images: generation, validation, storage, export, quality."""
