"""The gallery index on a GPU. This file imports faiss only on a machine with a GPU."""

from __future__ import annotations

import pytest
import torch

from tasks.retrieval.gallery_index import MIN_TRAINING_ENTRIES, GalleryEntry, GalleryIndex


@pytest.mark.gpu
@pytest.mark.parametrize("width", [512, 1280])
@pytest.mark.parametrize("exact_below", [200_000, 0])
def test_a_search_on_the_gpu_finds_what_one_on_the_cpu_finds(width, exact_below):
    """faiss-gpu is optional; the CPU build of faiss has no function for GPUs."""
    faiss = pytest.importorskip("faiss")
    if not faiss.get_num_gpus():
        pytest.skip("faiss is installed without GPU support")
    count = 2 * MIN_TRAINING_ENTRIES
    features = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    entries = [GalleryEntry(f"{n}.jpg", n, 0, "d") for n in range(count)]
    index = GalleryIndex.build(features, entries, exact_below=exact_below)
    assert index._on_gpu is not None, "the index was not copied to the GPU"
    found = index.search(features[:50], 5)
    index._on_gpu = None
    wanted = index.search(features[:50], 5)
    assert torch.equal(found.positions[:, 0], torch.arange(50))
    assert torch.allclose(found.similarities[:, 0], wanted.similarities[:, 0], atol=1e-4)
    if exact_below:
        assert (found.positions == wanted.positions).float().mean() > 0.99
