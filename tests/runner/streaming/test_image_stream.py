from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runner.config.sections import DataConfig
from runner.streaming import image_stream
from runner.streaming.decoded_cache import (
    SharedDecoder,
    decode_block,
    evaluation_files,
    training_files,
)
from runner.streaming.image_decoding import DecodedImages, decode_many
from runner.streaming.image_stream import IMAGES_PER_BLOCK, BlockImages, DomainStream, LocalStream
from runner.streaming.unreadable_images import UnreadableImage, UnreadableImages
from tasks.schema import Benchmark, Domain, Record, Split

HEIGHT, WIDTH = 32, 16
SIZES = (300, 20, 12)
"""Training images by seen domain; the first takes two blocks."""

NUM_TEST = 30
RUNS = itertools.count()


def save_random_image(path: Path, seed: int) -> str:
    """Saves a JPEG with a size other than the decoded size, unless it exists."""
    if not path.exists():
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return str(path)


def make_domain(folder: Path, name: str, num_train: int) -> Domain:
    train = tuple(
        Record(save_random_image(folder / f"{name}-{index:03}.jpg", index), index // 4, index % 2)
        for index in range(num_train)
    )
    test = tuple(
        Record(
            save_random_image(folder / f"{name}-test-{index:03}.jpg", 1000 + index),
            index // 2,
            index % 2,
        )
        for index in range(NUM_TEST)
    )
    return Domain(name, train, Split((), ()), Split(test[:10], test[10:]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("people")


@pytest.fixture
def benchmark_(folder: Path) -> Benchmark:
    names = ("first", "second", "third")
    seen = tuple(make_domain(folder, name, size) for name, size in zip(names, SIZES, strict=True))
    return Benchmark("tiny", seen, (), {})


def corrupt(benchmark: Benchmark, folder: Path) -> tuple[Benchmark, Path, Path]:
    """Adds a truncated JPEG and a text file to the second domain."""
    truncated, text = folder / "truncated.jpg", folder / "text.jpg"
    whole = Path(benchmark.seen[1].train[0].image_path).read_bytes()
    truncated.write_bytes(whole[: len(whole) // 2])
    text.write_text("not an image")
    second = benchmark.seen[1]
    train = list(second.train)
    train[3] = Record(str(truncated), 0, 0)
    train[4] = Record(str(text), 1, 0)
    train[5:8] = [replace(record, person_id=2) for record in train[5:8]]
    test = Split((Record(str(text), 0, 0), *second.test.query[1:]), second.test.gallery)
    changed = Domain(second.name, tuple(train), second.validation, test)
    seen = (benchmark.seen[0], changed, benchmark.seen[2])
    return Benchmark(benchmark.name, seen, (), {}), truncated, text


def shared_decoder(benchmark: Benchmark) -> SharedDecoder:
    """Decodes all files of a benchmark in blocks of different sizes."""
    groups = [*evaluation_files(benchmark.domains), *training_files(benchmark.seen)]
    blocks = [decode_block(paths, HEIGHT, WIDTH) for paths in groups]
    return SharedDecoder(blocks, HEIGHT, WIDTH)


@dataclass
class Harness:
    """Opens streams of one kind; each test has a separate list of unreadable images.

    "shared" is a local stream with images that are already decoded.
    """

    kind: str
    unreadable_file: Path
    exits: contextlib.ExitStack

    def start(
        self,
        benchmark: Benchmark,
        *,
        fits: bool = True,
        max_bad_share: float = 0.0,
        cache_share: float = 0.2,
    ) -> DomainStream:
        share = 0.3 if fits else 1e-9
        config = DataConfig(
            max_bad_share=max_bad_share,
            object_store_share=share,
            evaluation_batch_size=8,
            evaluation_cache_share=cache_share,
        )
        if self.kind in ("local", "shared"):
            decode = decode_many if self.kind == "local" else shared_decoder(benchmark)
            stream = LocalStream(
                benchmark, config, HEIGHT, WIDTH, self.unreadable_file, decode=decode
            )
            self.exits.callback(stream.close)
            return stream
        from runner.on_ray.image_stream import RayStream, serve_stream

        name = f"stream-test-{next(RUNS)}"
        self.exits.enter_context(
            serve_stream(name, benchmark, config, HEIGHT, WIDTH, self.unreadable_file)
        )
        return RayStream(name, benchmark, config, HEIGHT, WIDTH)

    def entries(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.unreadable_file.read_text().splitlines()]


@pytest.fixture(params=["local", "shared", "ray"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    with contextlib.ExitStack() as exits:
        yield Harness(request.param, tmp_path / "run" / "quarantine.jsonl", exits)


def naive(records: Sequence[Record]) -> np.ndarray:
    return decode_many([record.image_path for record in records], HEIGHT, WIDTH).pixels


def make_plan(num_images: int, iterations: int = 40, batch: int = 8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, num_images, (iterations, batch))


@pytest.mark.parametrize("fits", [True, False], ids=["blocks", "streamed"])
def test_batches_equal_a_naive_loop(harness: Harness, benchmark_: Benchmark, fits: bool) -> None:
    stream = harness.start(benchmark_, fits=fits)
    opened = stream.open(0)
    assert opened.domain == benchmark_.seen[0]
    assert opened.num_unreadable == 0
    expected = naive(opened.domain.train)
    plan = make_plan(SIZES[0])
    batches = list(opened.images.batches(plan))
    assert len(batches) == len(plan)
    for indices, batch in zip(plan, batches, strict=True):
        assert batch.dtype == np.uint8
        assert batch.flags.writeable
        assert batch.flags.c_contiguous
        np.testing.assert_array_equal(batch, expected[indices])
    indices = np.arange(SIZES[0])[::-1]
    np.testing.assert_array_equal(opened.images.fetch(indices), expected[indices])
    assert list(opened.images.batches(plan[:0])) == []
    assert not harness.unreadable_file.exists()


def test_iteration_may_stop_early(harness: Harness, benchmark_: Benchmark) -> None:
    opened = harness.start(benchmark_, fits=False).open(1)
    batches = opened.images.batches(make_plan(SIZES[1]))
    next(batches)
    del batches
    assert opened.images.fetch(np.array([5])).shape == (1, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("fits", [True, False], ids=["blocks", "streamed"])
def test_unreadable_training_images_are_removed_and_listed_once(
    harness: Harness, benchmark_: Benchmark, tmp_path: Path, fits: bool
) -> None:
    benchmark, truncated, text = corrupt(benchmark_, tmp_path)
    stream = harness.start(benchmark, fits=fits, max_bad_share=0.2)
    opened = stream.open(1)
    assert opened.num_unreadable == 2
    assert opened.domain == benchmark.seen[1].without({3, 4})
    # Person 1 had only the text file, so person ids are contiguous again.
    assert opened.domain.num_persons == benchmark.seen[1].num_persons - 1
    np.testing.assert_array_equal(
        opened.images.fetch(np.arange(len(opened.domain.train))), naive(opened.domain.train)
    )
    stream.release(1)
    stream.open(1)
    entries = harness.entries()
    assert [entry["path"] for entry in entries] == [str(truncated), str(text)]
    assert {(entry["domain"], entry["split"]) for entry in entries} == {("second", "train")}
    assert "OSError" in entries[0]["reason"]
    assert "cannot identify image file" in entries[1]["reason"]


def test_too_many_unreadable_images_are_an_error(
    harness: Harness, benchmark_: Benchmark, tmp_path: Path
) -> None:
    benchmark, truncated, _ = corrupt(benchmark_, tmp_path)
    stream = harness.start(benchmark, max_bad_share=0.05)
    message = rf"second: .*5.00%.*2 of 20 .*10.00%.*{truncated.name}.*raise data.max_bad_share"
    with pytest.raises(ValueError, match=message):
        stream.open(1)
    assert len(harness.entries()) == 2


def test_unreadable_test_images_are_skipped(
    harness: Harness, benchmark_: Benchmark, tmp_path: Path
) -> None:
    benchmark, _, text = corrupt(benchmark_, tmp_path)
    stream = harness.start(benchmark)
    second, third = benchmark.seen[1:]
    # The unreadable image is the only one in the last chunk.
    records = [*third.test.gallery, *second.test.gallery[:4], second.test.query[0]]
    chunks = list(stream.test_images(records))
    assert [len(positions) for positions, _ in chunks] == [8, 8, 8]
    positions = np.concatenate([positions for positions, _ in chunks])
    assert positions.tolist() == list(range(len(records) - 1))
    pixels = np.concatenate([pixels for _, pixels in chunks])
    assert all(pixels.flags.writeable for _, pixels in chunks)
    np.testing.assert_array_equal(pixels, naive(records)[:-1])
    list(stream.test_images(records))
    (entry,) = harness.entries()
    assert (entry["path"], entry["domain"], entry["split"]) == (str(text), "second", "test")
    assert list(stream.test_images([])) == []


@pytest.mark.parametrize("cache_share", [0.2, 0.0], ids=["cache", "no cache"])
def test_test_images_follow_changes_of_their_files(
    harness: Harness, benchmark_: Benchmark, tmp_path: Path, cache_share: float
) -> None:
    """A cached image is never served for a file that changed; a lost file is listed."""
    gallery = [
        Record(save_random_image(tmp_path / f"{number}.jpg", number), number, 0)
        for number in range(16)
    ]
    domain = replace(benchmark_.seen[1], test=Split(tuple(gallery[:2]), tuple(gallery[2:])))
    stream = harness.start(Benchmark("tiny", (domain,), (), {}), cache_share=cache_share)

    def decoded() -> list[int]:
        chunks = list(stream.test_images(gallery))
        positions = [int(position) for positions, _ in chunks for position in positions]
        expected = naive([gallery[position] for position in positions])
        np.testing.assert_array_equal(np.concatenate([each for _, each in chunks]), expected)
        for _, pixels in chunks:
            pixels[:] = 0  # the consumer owns its copy
        return positions

    assert decoded() == decoded() == list(range(16))
    Path(gallery[3].image_path).unlink()
    save_random_image(Path(gallery[3].image_path), 99)
    assert decoded() == decoded() == list(range(16))
    Path(gallery[12].image_path).write_text("not an image")
    expected = [position for position in range(16) if position != 12]
    assert decoded() == decoded() == expected
    assert [entry["path"] for entry in harness.entries()] == [gallery[12].image_path]


def test_test_images_are_decoded_once(
    benchmark_: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_decoded: list[int] = []

    def counting(paths: Sequence[str], height: int, width: int) -> DecodedImages:
        num_decoded.append(len(paths))
        return decode_many(paths, height, width)

    def decode_twice(share: float, available_bytes: int) -> int:
        num_decoded.clear()
        monkeypatch.setattr(image_stream, "available_memory_bytes", lambda: available_bytes)
        config = DataConfig(evaluation_batch_size=NUM_TEST, evaluation_cache_share=share)
        file = tmp_path / "quarantine.jsonl"
        stream = LocalStream(benchmark_, config, HEIGHT, WIDTH, file, decode=counting)
        records = [record for each in benchmark_.seen for record in each.test.query]
        records += [record for each in benchmark_.seen for record in each.test.gallery]
        for _ in range(2):
            list(stream.test_images(records))
        stream.close()
        return sum(num_decoded)

    num_images = 3 * NUM_TEST
    enough_bytes = 10 * num_images * HEIGHT * WIDTH * 3
    assert decode_twice(0.1, enough_bytes) == num_images
    assert decode_twice(0.0, enough_bytes) == 2 * num_images
    # Two of three splits fit: some chunks are decoded once.
    assert num_images < decode_twice(0.075, enough_bytes) < 2 * num_images


def test_a_released_domain_can_be_opened_again(harness: Harness, benchmark_: Benchmark) -> None:
    stream = harness.start(benchmark_)
    images = stream.open(2).images
    stream.release(2)
    with pytest.raises(RuntimeError, match="domain was released"):
        images.fetch(np.array([0]))
    again = stream.open(2)
    np.testing.assert_array_equal(again.images.fetch(np.arange(3)), naive(again.domain.train[:3]))


def test_a_file_deleted_during_the_run_is_an_error(
    harness: Harness, benchmark_: Benchmark, tmp_path: Path
) -> None:
    second = benchmark_.seen[1]
    deleted = Path(save_random_image(tmp_path / "deleted.jpg", 5))
    domain = Domain(
        second.name, (Record(str(deleted), 0, 0), *second.train), second.validation, second.test
    )
    opened = harness.start(Benchmark("tiny", (domain,), (), {}), fits=False).open(0)
    deleted.unlink()
    with pytest.raises(OSError, match=r"deleted.jpg: expected a readable image"):
        opened.images.fetch(np.array([0]))


def test_the_local_stream_prefetches_the_next_domain(benchmark_: Benchmark, tmp_path: Path) -> None:
    stream = LocalStream(benchmark_, DataConfig(), HEIGHT, WIDTH, tmp_path / "quarantine.jsonl")
    stream.open(0)
    decoded = stream._decoded[1]
    decoded.result(timeout=10)
    assert stream._start(1) is decoded
    assert sorted(stream._decoded) == [0, 1]
    stream.close()


def test_block_images_of_different_sizes() -> None:
    pixels = np.arange(7 * 2 * 1 * 3, dtype=np.uint8).reshape(7, 2, 1, 3)
    images = BlockImages([pixels[:1], pixels[1:5], pixels[5:]], np.array([0, 2, 4, 5, 6]))
    indices = np.array([4, 0, 1, 3, 2, 2])
    np.testing.assert_array_equal(images.fetch(indices), pixels[[6, 0, 2, 5, 4, 4]])


def test_the_list_of_unreadable_images_survives_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.jsonl"
    a, b = (UnreadableImage(name, "why", "domain", "train") for name in "ab")
    UnreadableImages(file).add([a, b])
    file.write_text(file.read_text()[:-5])
    UnreadableImages(file).add([a, b, b])
    assert [json.loads(line)["path"] for line in file.read_text().splitlines()] == ["a", "b"]


# Only on Ray -------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.05)


@pytest.fixture
def ray_stream(
    ray_session: None, benchmark_: Benchmark, tmp_path: Path
) -> Iterator[tuple[str, Benchmark, DataConfig]]:
    from runner.on_ray.image_stream import serve_stream

    name, config = f"stream-test-{next(RUNS)}", DataConfig()
    with serve_stream(name, benchmark_, config, HEIGHT, WIDTH, tmp_path / "quarantine.jsonl"):
        yield name, benchmark_, config


def test_the_actor_holds_two_domains(
    ray_stream: tuple[str, Benchmark, DataConfig],
) -> None:
    import ray

    from runner.on_ray.image_stream import RayStream

    name, benchmark, config = ray_stream
    stream = RayStream(name, benchmark, config, HEIGHT, WIDTH)
    actor = ray.get_actor(f"stream-{name}")

    def ready() -> set[str]:
        return ray.get(actor.decoded_domains.remote())

    wait_until(lambda: ready() == {"first"})
    stream.open(0)
    wait_until(lambda: ready() == {"first", "second"})
    stream.release(0)
    start_s = time.perf_counter()
    stream.open(1)
    assert time.perf_counter() - start_s < 1
    wait_until(lambda: ready() == {"second", "third"})
    # After a restart from an earlier checkpoint, still only two domains are held.
    stream.open(0)
    assert ready() <= {"first", "second"}


def test_release_frees_the_object_store(ray_stream: tuple[str, Benchmark, DataConfig]) -> None:
    import ray

    from runner.on_ray.image_stream import RayStream

    name, benchmark, config = ray_stream
    stream = RayStream(name, benchmark, config, HEIGHT, WIDTH)
    actor = ray.get_actor(f"stream-{name}")

    def free_bytes() -> float:
        return ray.available_resources()["object_store_memory"]

    images = stream.open(0).images
    images.fetch(np.array([0]))
    wait_until(lambda: "second" in ray.get(actor.decoded_domains.remote()))
    time.sleep(0.5)  # the cluster reports its free memory with this delay
    before = free_bytes()
    stream.release(0)
    # Ray may store the small second block elsewhere.
    wait_until(lambda: free_bytes() >= before + IMAGES_PER_BLOCK * HEIGHT * WIDTH * 3)


def test_blocks_survive_the_death_of_a_worker(
    ray_stream: tuple[str, Benchmark, DataConfig],
) -> None:
    import ray

    from runner.on_ray.image_stream import RayStream
    from runner.on_ray.stream_actor import DomainFiles

    name, benchmark, config = ray_stream

    class Worker:
        def open(self) -> int:
            stream = RayStream(name, benchmark, config, HEIGHT, WIDTH)
            return int(stream.open(0).images.fetch(np.array([7])).sum())

    worker = ray.remote(num_cpus=0)(Worker).remote()
    total = ray.get(worker.open.remote())
    actor = ray.get_actor(f"stream-{name}")
    files = DomainFiles(
        "first", tuple(r.image_path for r in benchmark.seen[0].train), keep_pixels=True
    )
    before = [ref.hex() for ref in ray.get(actor.open.remote(files, None)).blocks]
    ray.kill(worker)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(worker.open.remote())
    opened = RayStream(name, benchmark, config, HEIGHT, WIDTH).open(0)
    assert int(opened.images.fetch(np.array([7])).sum()) == total
    assert [ref.hex() for ref in ray.get(actor.open.remote(files, None)).blocks] == before


def test_a_restarted_actor_decodes_again(ray_stream: tuple[str, Benchmark, DataConfig]) -> None:
    import ray

    from runner.on_ray.image_stream import RayStream

    name, benchmark, config = ray_stream
    stream = RayStream(name, benchmark, config, HEIGHT, WIDTH)
    before = stream.open(0).images.fetch(np.arange(4))
    ray.kill(ray.get_actor(f"stream-{name}"), no_restart=False)
    np.testing.assert_array_equal(stream.open(0).images.fetch(np.arange(4)), before)


def test_the_object_store_keeps_test_images_until_the_stream_closes(
    ray_stream: tuple[str, Benchmark, DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from runner.on_ray import image_stream as ray_image_stream

    name, benchmark, config = ray_stream
    stream = ray_image_stream.RayStream(name, benchmark, config, HEIGHT, WIDTH)
    # Five copies of each path in 150 KB: objects below 100 KB are not stored in the object store.
    records = [record for each in benchmark.seen for record in each.test.gallery] * 2
    expected = naive(records)

    def evaluated() -> np.ndarray:
        return np.concatenate([pixels for _, pixels in stream.test_images(records)])

    def no_task(*_: object) -> None:
        raise AssertionError("expected cached images, got a decoding task")

    np.testing.assert_array_equal(evaluated(), expected)
    assert stream._kept is not None
    (kept,) = {id(each): each for each in stream._kept._pixels}.values()
    assert not kept.flags.writeable  # a view of shared memory
    del kept
    with monkeypatch.context() as patch:
        patch.setattr(ray_image_stream, "decode_block", no_task)
        np.testing.assert_array_equal(evaluated(), expected)
    ray.kill(ray.get_actor(f"stream-{name}"), no_restart=False)
    np.testing.assert_array_equal(evaluated(), expected)
    stream.close()
    assert stream._kept._pixels == []


def test_the_actor_does_not_decode_shared_images(
    ray_session: None, benchmark_: Benchmark, tmp_path: Path
) -> None:
    import ray

    from runner.on_ray.image_stream import RayStream, serve_stream

    benchmark, truncated, text = corrupt(benchmark_, tmp_path)
    first, second, third = benchmark.seen
    # Shared images: the first two domains, without test images of the third.
    shared = shared_decoder(Benchmark("two", (first, second), (), {}))
    config, unreadable_file = (
        DataConfig(max_bad_share=0.2, evaluation_batch_size=8),
        tmp_path / "q.jsonl",
    )
    arguments = benchmark, config, HEIGHT, WIDTH
    with serve_stream("partly-shared", *arguments, unreadable_file, shared=shared):
        actor = ray.get_actor("stream-partly-shared")
        stream = RayStream("partly-shared", *arguments, shared)
        assert ray.get(actor.decoded_domains.remote()) == set()
        opened = stream.open(0)
        plan = make_plan(SIZES[0], iterations=3)
        for indices, batch in zip(plan, opened.images.batches(plan), strict=True):
            np.testing.assert_array_equal(batch, naive(first.train)[indices])
            assert batch.flags.writeable
        stream.release(0)
        opened = stream.open(1)
        assert (opened.num_unreadable, opened.domain) == (2, second.without({3, 4}))
        indices = np.arange(len(opened.domain.train))
        np.testing.assert_array_equal(opened.images.fetch(indices), naive(opened.domain.train))
        wait_until(lambda: ray.get(actor.decoded_domains.remote()) == {"third"})
        opened = stream.open(2)
        np.testing.assert_array_equal(opened.images.fetch(np.arange(12)), naive(third.train))
        records = [*second.test.gallery[:12], *third.test.gallery]
        chunks = list(stream.test_images(records))
        np.testing.assert_array_equal(np.concatenate([each for _, each in chunks]), naive(records))
        assert all(pixels.flags.writeable for _, pixels in chunks)
    listed = [json.loads(line)["path"] for line in unreadable_file.read_text().splitlines()]
    assert listed == [str(truncated), str(text)]
