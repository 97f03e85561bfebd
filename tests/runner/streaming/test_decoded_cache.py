from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner.streaming import decoded_cache
from runner.streaming.decoded_cache import (
    EvaluationCache,
    SharedDecoder,
    decode_block,
    evaluation_files,
    select_within_budget,
    training_files,
)
from runner.streaming.image_decoding import DecodedImages, decode_many
from tasks.schema import Benchmark, Domain, Record, Split

HEIGHT, WIDTH = 8, 4
NUM_SHARED, NUM_FILES = 9, 13
UNREADABLE = (3, 10)


def save_random_image(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (10, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files; the first nine are shared, one of each kind is unreadable, the last is missing."""
    folder = tmp_path_factory.mktemp("people")
    files = [folder / f"{number}.png" for number in range(NUM_FILES)]
    for number, file in enumerate(files[:-1]):
        save_random_image(file, number)
    for number in UNREADABLE:
        files[number].write_text("not an image")
    return [str(file) for file in files]


def share(paths: Sequence[str], *cuts: int) -> SharedDecoder:
    bounds = [0, *cuts, len(paths)]
    blocks = [
        decode_block(paths[start:stop], HEIGHT, WIDTH) for start, stop in itertools.pairwise(bounds)
    ]
    for block in blocks:
        block.images.pixels.flags.writeable = False
    return SharedDecoder(blocks, HEIGHT, WIDTH)


@given(
    indices=st.lists(st.integers(0, NUM_FILES - 1), max_size=12),
    cuts=st.lists(st.integers(0, NUM_SHARED), max_size=3).map(sorted),
)
def test_cached_images_equal_decoded_images(
    paths: list[str], indices: list[int], cuts: list[int]
) -> None:
    selected = [paths[number] for number in indices]
    cached = share(paths[:NUM_SHARED], *cuts)(selected, HEIGHT, WIDTH)
    decoded = decode_many(selected, HEIGHT, WIDTH)
    assert cached.pixels.dtype == np.uint8
    np.testing.assert_array_equal(cached.pixels, decoded.pixels)
    assert cached.errors == decoded.errors


def test_adjacent_images_are_a_view(paths: list[str]) -> None:
    shared = share(paths[:NUM_SHARED], 5)
    one, again = (shared(paths[0:3], HEIGHT, WIDTH).pixels for _ in range(2))
    assert np.shares_memory(one, again)
    assert not one.flags.writeable
    assert shared.contains(paths[:NUM_SHARED], HEIGHT, WIDTH)
    assert not shared.contains(paths[: NUM_SHARED + 1], HEIGHT, WIDTH)
    both = shared(paths[4:6], HEIGHT, WIDTH).pixels
    assert not np.shares_memory(both, shared(paths[4:5], HEIGHT, WIDTH).pixels)


def test_another_size_is_decoded_again(paths: list[str]) -> None:
    shared = share(paths[:NUM_SHARED])
    for size in ((HEIGHT, WIDTH + 1), (HEIGHT + 1, WIDTH), (WIDTH, HEIGHT)):
        expected = decode_many(paths[:2], *size).pixels
        np.testing.assert_array_equal(shared(paths[:2], *size).pixels, expected)


def test_a_changed_file_is_decoded_again(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.bmp" for number in range(3)]
    for number, file in enumerate(files):
        save_random_image(file, number)
    paths = [str(file) for file in files]
    shared = share(paths)
    before = shared(paths, HEIGHT, WIDTH).pixels
    save_random_image(files[1], 77)  # same file size: only the modification time differs
    os.utime(files[1], ns=(0, files[1].stat().st_mtime_ns + 1))
    files[2].unlink()
    cached, decoded = shared(paths, HEIGHT, WIDTH), decode_many(paths, HEIGHT, WIDTH)
    np.testing.assert_array_equal(cached.pixels, decoded.pixels)
    assert (cached.pixels[1] != before[1]).any()
    assert cached.errors == decoded.errors
    assert "FileNotFoundError" in cached.errors[2]


def test_test_images_have_priority_and_files_are_unique() -> None:
    def records(*names: str) -> tuple[Record, ...]:
        return tuple(Record(name, 0, 0) for name in names)

    seen = Domain(
        "seen", records("a", "b"), Split(records("v"), records("v", "w")), Split(records("q"), ())
    )
    # For text queries, only the gallery is decoded.
    by_text = Split(records("b", "t"), records("g", "q"), "text")
    unseen = Domain("unseen", records("never"), Split((), ()), by_text)
    benchmark = Benchmark("two", (seen,), (unseen,), {})
    tests = evaluation_files(benchmark.domains)
    assert tests == [["q"], ["v", "w"], ["g"]]
    known = {path for group in tests for path in group}
    assert training_files(benchmark.seen, known) == [["a", "b"]]
    assert training_files(benchmark.domains, ["a"]) == [["b"], ["never"]]
    # Joint training uses the same files.
    joint = benchmark.for_course("joint")
    assert evaluation_files(joint.domains) == tests
    assert training_files(joint.seen) == [["a", "b"]]


def test_splits_with_large_files_are_kept_first(tmp_path: Path) -> None:
    def split(name: str, *sizes: int) -> Split:
        files = [tmp_path / f"{name}{number}" for number in range(len(sizes))]
        for file, size in zip(files, sizes, strict=True):
            file.write_bytes(bytes(size))
        return Split(tuple(Record(str(file), 0, 0) for file in files), ())

    none = Split((), ())
    small = Domain("small", (), split("v", 5, 5), split("a", 1, 3))
    large = Domain("large", (), none, split("b", 6, 9, 9))
    groups = evaluation_files([small, large])
    assert [[Path(path).name for path in group] for group in groups] == [
        ["b0", "b1", "b2"],
        ["v0", "v1"],
        ["a0", "a1"],
    ]


def test_the_evaluation_cache_keeps_only_blocks_of_its_files(paths: list[str]) -> None:
    cache = EvaluationCache(paths[:8], HEIGHT, WIDTH)
    cache.keep(decode_block(paths[:5], HEIGHT, WIDTH))
    cache.keep(decode_block(paths[6:9], HEIGHT, WIDTH))  # paths[8] does not fit the budget
    cache.keep(decode_block(paths[4:6], HEIGHT, WIDTH))  # paths[4] is known
    assert cache.contains(paths[:5], HEIGHT, WIDTH)
    assert not any(cache.contains([path], HEIGHT, WIDTH) for path in paths[5:])
    cache.clear()
    cache.keep(decode_block(paths[:5], HEIGHT, WIDTH))
    assert not cache.contains(paths[:1], HEIGHT, WIDTH)


def test_groups_beyond_the_budget_are_skipped() -> None:
    groups = ["ab", "cdef", "g", "hi"]
    assert select_within_budget(groups, 3) == ["ab", "g"]
    assert select_within_budget(groups, 9) == groups
    assert select_within_budget(groups, 0) == []


def test_unreadable_files_are_decoded_again(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(paths: Sequence[str], height: int, width: int) -> DecodedImages:
        reasons = dict.fromkeys(range(len(paths)), "OSError: no such mount")
        return DecodedImages(np.zeros((len(paths), height, width, 3), np.uint8), reasons)

    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(decoded_cache, "decode_many", unreadable)
        block = decode_block(paths[:2], HEIGHT, WIDTH)
    cached = SharedDecoder([block], HEIGHT, WIDTH)(paths[:2], HEIGHT, WIDTH)
    np.testing.assert_array_equal(cached.pixels, decode_many(paths[:2], HEIGHT, WIDTH).pixels)
    assert not cached.errors
