"""The gallery index against sorting all similarities, and its files on disk."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.retrieval import gallery_index
from tasks.retrieval.gallery_index import (
    GPU_CODE_BYTES,
    GPU_CODE_DIMENSIONS,
    MIN_TRAINING_ENTRIES,
    GalleryEntry,
    GalleryIndex,
    IvfPq,
)

NUM_LARGE = 12_000
FACTS = {"learner": "vladr", "step": 3}


def entries(count):
    return [GalleryEntry(f"images/{n}.jpg", n // 4, n % 6, "market1501") for n in range(count)]


def sorted_by_similarity(query, gallery, k):
    """Similarities and positions of a naive search, ties by position."""
    query, gallery = (torch.nn.functional.normalize(each) for each in (query, gallery))
    similarities = (query @ gallery.T).numpy()
    positions = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, positions, 1), positions


def repeated(rng, count):
    """Samples of 24 vectors whose products are exact, so many similarities are tied."""
    halves = np.array(np.meshgrid(*[[-0.5, 0.5]] * 4)).reshape(4, -1).T
    vectors = np.concatenate([halves, np.eye(4), -np.eye(4)]).astype(np.float32)
    return torch.from_numpy(vectors[rng.integers(0, len(vectors), count)])


def clustered(seed, count, width=32, num_persons=600):
    """Embeddings of persons with about 20 images each."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_persons, width, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(num_persons, (count,), generator=generator)
    return centres[ids] + 0.6 * torch.randn(count, width, generator=generator)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """With so little work, synchronisation between threads takes longer than the search."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def large_features():
    return clustered(1, NUM_LARGE)


@pytest.fixture(scope="module")
def large(large_features):
    return GalleryIndex.build(large_features, entries(NUM_LARGE), exact_below=0, facts=FACTS)


# ---- exact search


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    num_queries=st.integers(0, 30),
    num_gallery=st.integers(1, 90),
    k=st.integers(1, 100),
)
def test_flat_search_equals_sorting_all_similarities(seed, num_queries, num_gallery, k):
    rng = np.random.default_rng(seed)
    query, gallery = repeated(rng, num_queries), repeated(rng, num_gallery)
    index = GalleryIndex.build(gallery, entries(num_gallery))
    result = index.search(query, k)
    similarities, positions = sorted_by_similarity(query, gallery, k)
    assert result.positions.shape == (num_queries, min(k, num_gallery))
    np.testing.assert_array_equal(result.positions.numpy(), positions)
    np.testing.assert_array_equal(result.similarities.numpy(), similarities)


def test_many_ties_are_ordered_by_position(monkeypatch):
    monkeypatch.setattr(gallery_index, "BLOCK_VALUES", 1000)
    gallery = torch.ones(700, 3)
    gallery[500] = torch.tensor([1.0, 1.0, 1.1])
    result = GalleryIndex.build(gallery, entries(700)).search(torch.ones(5, 3), 4)
    assert result.positions.tolist() == [[0, 1, 2, 3]] * 5


def test_similarities_are_cosines_for_any_norm_and_dtype():
    gallery, query = clustered(2, 300).double(), clustered(3, 9)
    index = GalleryIndex.build(gallery * 7, entries(300))
    result = index.search((query / 8).bfloat16(), 20)
    similarities, positions = sorted_by_similarity(query.bfloat16().float(), gallery.float(), 20)
    assert result.similarities.dtype == torch.float32
    assert result.positions.dtype == torch.int64
    np.testing.assert_allclose(result.similarities, similarities, rtol=0, atol=1e-6)
    assert (result.positions.numpy() == positions).mean() > 0.99


# ---- IVF-PQ search


def test_ivf_pq_search_has_high_recall(large, large_features):
    query = clustered(4, 200)
    exact = GalleryIndex.build(large_features, entries(NUM_LARGE))
    assert (large.kind, exact.kind) == ("ivf-pq", "flat")
    exact_result, result = exact.search(query, 10), large.search(query, 10)
    pairs = zip(exact_result.positions.tolist(), result.positions.tolist(), strict=True)
    assert np.mean([len(set(left) & set(right)) / 10 for left, right in pairs]) > 0.9
    assert (exact_result.positions[:, 0] == result.positions[:, 0]).float().mean() > 0.95


def test_ivf_pq_similarities_are_exact_and_sorted(large, large_features):
    query = torch.nn.functional.normalize(clustered(5, 40))
    result = large.search(query, 25)
    vectors = torch.nn.functional.normalize(large_features)[result.positions]
    expected = torch.einsum("qkd,qd->qk", vectors, query)
    np.testing.assert_allclose(result.similarities, expected, rtol=0, atol=1e-6)
    assert (result.similarities.diff(dim=1) <= 0).all()


def test_k_beyond_the_gallery_returns_all_entries(large, large_features):
    query = clustered(6, 3)
    result = large.search(query, NUM_LARGE + 5)
    assert result.positions.sort(dim=1).values.tolist() == [list(range(NUM_LARGE))] * 3
    similarities, _ = sorted_by_similarity(query, large_features, NUM_LARGE)
    np.testing.assert_allclose(result.similarities, similarities, rtol=0, atol=1e-6)


def test_probed_lists_with_fewer_than_k_entries(large, large_features):
    """Queries the last entry: faiss returns -1 for missing results, which also indexes the last."""
    assert large.codes is not None
    num_reached = NUM_LARGE * large.codes.num_probes // large.codes.num_lists
    k = num_reached // 4
    assert gallery_index.CANDIDATES_PER_RESULT * k > 2 * num_reached
    (result,) = large.search(large_features[-1:], k).positions.tolist()
    assert result[0] == NUM_LARGE - 1
    assert len(set(result)) == k
    assert min(result) >= 0


def test_ivf_pq_ties_are_ordered_by_position():
    features = clustered(7, MIN_TRAINING_ENTRIES)
    features[[5, 77, 9000]] = features[3].clone()
    index = GalleryIndex.build(features, entries(MIN_TRAINING_ENTRIES), exact_below=0)
    assert index.search(features[3:4], 4).positions.tolist() == [[3, 5, 77, 9000]]


def test_results_do_not_depend_on_query_blocks(large, monkeypatch):
    query = clustered(8, 50)
    whole = large.search(query, 10)
    monkeypatch.setattr(gallery_index, "BLOCK_VALUES", 200 * 32 * 7)
    apart = large.search(query, 10)
    assert torch.equal(whole.positions, apart.positions)
    assert torch.equal(whole.similarities, apart.similarities)


def test_codes_depend_on_the_seed(large, large_features):
    build, arguments = GalleryIndex.build, (large_features, entries(NUM_LARGE))
    indices = large, *(build(*arguments, exact_below=0, seed=seed) for seed in (0, 1))
    data = [faiss.serialize_index(index._index).tobytes() for index in indices]
    assert data[0] == data[1] != data[2]


def test_exact_below_selects_the_index_kind(large_features):
    count = MIN_TRAINING_ENTRIES
    build = GalleryIndex.build
    assert build(large_features[:count], entries(count), exact_below=count).kind == "ivf-pq"
    assert build(large_features[:count], entries(count), exact_below=count + 1).kind == "flat"
    assert build(large_features[: count - 1], entries(count - 1), exact_below=0).kind == "flat"


@pytest.mark.parametrize(
    ("num_entries", "width", "for_gpu", "expected"),
    [
        (MIN_TRAINING_ENTRIES, 256, False, IvfPq(256, 32, 64, 4)),
        (1_000_000, 768, False, IvfPq(2048, 256, 192, 4)),
        (1_000_000, 512, True, IvfPq(2048, 256, 64, 8)),
        (100_000_000, 512, True, IvfPq(16384, 2048, 64, 8)),
        (200_000, 3, False, IvfPq(1024, 128, 1, 4)),
        (1_000_000, 1280, True, IvfPq(2048, 256, 64, 8)),  # 160 bytes are not supported
        (1_000_000, 2048, True, IvfPq(2048, 256, 64, 8)),
        (1_000_000, 1021, True, IvfPq(2048, 256, 1, 4)),  # prime: the codes of the CPU
    ],
)
def test_default_ivf_pq_parameters(num_entries, width, for_gpu, expected):
    assert IvfPq.for_gallery(num_entries, width, for_gpu=for_gpu) == expected


@given(st.integers(1, 4096))
def test_8_bit_codes_have_a_length_that_the_gpu_supports(width):
    codes = IvfPq.for_gallery(200_000, width, for_gpu=True)
    assert width % codes.num_subvectors == 0
    if codes.num_bits == 8:
        assert codes.num_subvectors in GPU_CODE_BYTES
        assert width // codes.num_subvectors in GPU_CODE_DIMENSIONS


# ---- on disk


@pytest.fixture
def small():
    return GalleryIndex.build(clustered(9, 50), entries(50), facts=FACTS)


def assert_same(one, other):
    assert (one.kind, one.width, len(one)) == (other.kind, other.width, len(other))
    assert (one.codes, one.facts) == (other.codes, other.facts)
    result, expected = (each.search(clustered(10, 30), 7) for each in (one, other))
    assert torch.equal(result.positions, expected.positions)
    assert torch.equal(result.similarities, expected.similarities)
    for position in (0, 7, len(one) - 1):
        assert one.entry(position) == other.entry(position)


def test_save_and_load_round_trip(small, large, tmp_path):
    for name, index in (("small", small), ("large", large)):
        index.save(tmp_path / "indices" / name)
        assert_same(GalleryIndex.load(tmp_path / "indices" / name), index)
    assert small.entry(7) == GalleryEntry("images/7.jpg", 1, 1, "market1501")
    described = json.loads((tmp_path / "indices" / "large" / "index.json").read_text())
    assert described["kind"] == "ivf-pq"
    assert described["metric"] == "inner product of L2-normalised features"
    assert (described["width"], described["num_entries"]) == (32, NUM_LARGE)
    assert described["facts"] == FACTS
    assert described["versions"] == {"faiss": faiss.__version__}


def test_a_loaded_index_stays_valid_after_replacement(small, large, tmp_path):
    large.save(tmp_path)
    loaded = GalleryIndex.load(tmp_path)
    assert isinstance(loaded._vectors, np.memmap)
    (tmp_path / "sheet.png").write_bytes(b"")
    small.save(tmp_path)
    assert_same(loaded, large)
    assert_same(GalleryIndex.load(tmp_path), small)
    kinds = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert kinds == ["entries", "index", "index.json", "sheet.png"]


def test_a_failed_save_keeps_the_old_index(small, large, tmp_path, monkeypatch):
    small.save(tmp_path)
    before = sorted(tmp_path.iterdir())

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(gallery_index.np, "save", full)
        with pytest.raises(OSError, match="No space left"):
            large.save(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert_same(GalleryIndex.load(tmp_path), small)


def test_files_of_a_killed_writer_are_removed(small, tmp_path):
    for name in ("vectors-0123456789ab.npy", ".index.json.0123456789ab"):
        (tmp_path / name).write_text("half")
    with pytest.raises(FileNotFoundError):
        GalleryIndex.load(tmp_path)
    small.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_facts_that_are_not_json_write_nothing(tmp_path):
    index = GalleryIndex.build(clustered(9, 5), entries(5), facts={"path": Path("run")})
    with pytest.raises(TypeError, match="not JSON serializable"):
        index.save(tmp_path / "index")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_not_overwritten(small, tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(FileExistsError, match=r"contains another file, notes\.txt; choose"):
        small.save(tmp_path)
    (tmp_path / "index.json").write_text('{"pages": 3}')
    with pytest.raises(FileExistsError, match=r"contains another file, index\.json"):
        small.save(tmp_path)
    with pytest.raises(
        FileExistsError, match="expected a folder for the gallery index, got a file"
    ):
        small.save(tmp_path / "notes.txt")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other"}', "{"])
def test_a_folder_without_an_index_is_not_loaded(text, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"no index\.json; build an index"):
            GalleryIndex.load(folder)
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match="got other content; choose the folder of a gallery"):
        GalleryIndex.load(tmp_path)


def test_another_version_is_not_loaded(small, tmp_path):
    small.save(tmp_path)
    text = (tmp_path / "index.json").read_text()
    (tmp_path / "index.json").write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match=r"expected .*version 1, got 2; rebuild"):
        GalleryIndex.load(tmp_path)


@pytest.mark.parametrize("name", ["index", "entries", "vectors"])
@pytest.mark.parametrize("left", [None, 0, 90])
def test_a_damaged_file_is_named(name, left, large, tmp_path):
    large.save(tmp_path)
    (file,) = tmp_path.glob(f"{name}-*")
    if left is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(
        ValueError, match=rf"{file.name}: .* missing or damaged .*rebuild the index"
    ):
        GalleryIndex.load(tmp_path)


def test_files_of_different_indices_are_refused(small, large, tmp_path):
    small.save(tmp_path / "small")
    large.save(tmp_path / "large")
    (good,), (bad,) = ((tmp_path / each).glob("entries-*") for each in ("small", "large"))
    bad.write_bytes(good.read_bytes())
    with pytest.raises(ValueError, match=r"do not match: expected 12000 entries .*\(50, 32\)"):
        GalleryIndex.load(tmp_path / "large")


# ---- faiss and the GPU


def test_missing_faiss_names_the_extra_to_install(small, monkeypatch, tmp_path):
    small.save(tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"needs faiss, .*`cpu` or `gpu` extra"):
        GalleryIndex.build(torch.ones(3, 2), entries(3))
    with pytest.raises(ImportError, match="needs faiss"):
        GalleryIndex.load(tmp_path)


class FakeGpu:
    """The interface of faiss-gpu, searching the CPU index."""

    def __init__(self, monkeypatch, error=None):
        self.error, self.counts = error, []
        for name, value in {
            "get_num_gpus": lambda: 1,
            "StandardGpuResources": object,
            "GpuClonerOptions": type("Options", (), {}),
            "index_cpu_to_gpu": self.copy,
        }.items():
            monkeypatch.setattr(faiss, name, value, raising=False)

    def copy(self, resources, device, index, options):
        if self.error:
            raise RuntimeError(self.error)
        assert options.useFloat16 == (not isinstance(index, faiss.IndexFlat))
        self.index = index
        return self

    def search(self, queries, count):
        self.counts.append(count)
        return self.index.search(queries, count)


def test_the_gpu_is_used_within_its_limits(small, large, large_features, monkeypatch):
    gpu = FakeGpu(monkeypatch)
    assert_same(GalleryIndex.build(clustered(9, 50), entries(50), facts=FACTS), small)
    assert gpu.counts == [8]
    coded = GalleryIndex.build(large_features, entries(NUM_LARGE), exact_below=0)
    assert coded.codes == IvfPq(256, 32, 4, 8)
    result, expected = (each.search(clustered(4, 100), 10) for each in (coded, large))
    assert (result.positions[:, 0] == expected.positions[:, 0]).float().mean() > 0.9
    assert gpu.counts == [8, 200]
    assert coded.search(clustered(4, 1), 300).positions.shape == (1, 300)
    assert gpu.counts == [8, 200]


def test_search_falls_back_to_the_cpu(small, monkeypatch, caplog):
    FakeGpu(monkeypatch, error="out of memory")
    with caplog.at_level(logging.WARNING):
        index = GalleryIndex.build(clustered(9, 50), entries(50), facts=FACTS)
    assert_same(index, small)
    assert "on the CPU: copying it to the GPU failed: out of memory" in caplog.text


# ---- bad input


def test_queries_of_another_width_are_refused(small):
    with pytest.raises(ValueError, match=r"width 32, .*\"vladr\".* got 16; embed queries with"):
        small.search(torch.ones(2, 16), 3)


def test_invalid_inputs_are_refused(small):
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        small.search(torch.ones(2, 32), 0)
    with pytest.raises(ValueError, match=r"query features: expected finite .* first in row 1"):
        small.search(torch.tensor([[1.0] * 32, [np.nan] * 32]), 1)
    with pytest.raises(ValueError, match="gallery features: expected finite"):
        GalleryIndex.build(torch.full((3, 2), np.inf), entries(3))
    with pytest.raises(ValueError, match="got 3 features and 2 entries"):
        GalleryIndex.build(torch.ones(3, 2), entries(2))
    with pytest.raises(ValueError, match=r"at least one feature.*got 0 features and 0 entries"):
        GalleryIndex.build(torch.ones(0, 2), [])
