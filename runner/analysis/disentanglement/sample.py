"""Images of test people on which a run is measured, of synthetic people or from a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.analysis.cross_evaluation import benchmark_to_test, refuse_trained_people
from runner.analysis.synthetic_attributes import Ints
from runner.analysis.synthetic_panel import Panel
from runner.analysis.trained_run import TrainedRun, embedding
from runner.config.run_config import RunConfig
from runner.streaming.image_stream import DomainStream
from tasks.benchmarks import seen_and_unseen
from tasks.loading.sampling import derive_seed
from tasks.schema import Domain, Record
from tasks.synthetic.captions import write_machine_texts


@dataclass(frozen=True, eq=False)
class Sample:
    """Images of test people of one domain.

    Attributes:
        domain: name of the domain.
        pixels: [N, H, W, 3] uint8 images.
        descriptions: N identity descriptions; "" without one.
        positions: [N] position of the person in each image, from 0.
        is_paired: [N] bool, images on which dependence is measured: equally many of each person.
    """

    domain: str
    pixels: np.ndarray
    descriptions: tuple[str, ...]
    positions: Ints
    is_paired: np.ndarray


def sample_of_panel(panel: Panel, seed: int) -> Sample:
    """Images of a panel in the old clothes, with machine texts in the annotators' wording."""
    rng = np.random.default_rng(derive_seed(seed, "descriptions", panel.domain))
    people = [panel.old.people[position] for position in panel.positions]
    texts = tuple(write_machine_texts(person, rng)[0] for person in people)
    return Sample(panel.domain, panel.old.pixels, texts, panel.positions, panel.is_query)


def read_samples(
    run: TrainedRun, config: RunConfig, num_people: int, images_per_person: int, seed: int
) -> dict[str, Sample]:
    """Reads a random sample of the test people of every seen domain.

    Args:
        run: measured run.
        config: its configuration, with the folders of the data.
        num_people: largest number of people of a domain.
        images_per_person: largest number of images of a person, the first ones of the data set.
        seed: seed of the choice of people.

    Raises:
        FileNotFoundError, ValueError: data are missing or wrong, a domain has fewer than two test
            people, or the run was trained on some of them.
    """
    names = seen_and_unseen(config.benchmark)[0]
    needed = config.benchmark.model_copy(update={"unseen": ()})
    config = config.model_copy(update={"benchmark": needed})
    benchmark = benchmark_to_test(run, config)
    refuse_trained_people(run, benchmark)
    domains = {domain.name: domain for domain in benchmark.domains}
    unreadable_file = run.storage.folder / "disentangle-quarantine.jsonl"
    with embedding(run, benchmark, unreadable_file) as embedder:
        return {
            name: _read(
                domains[name],
                _chosen_records(domains[name], num_people, images_per_person, seed),
                embedder.stream,
            )
            for name in names
        }


def _chosen_records(
    domain: Domain, num_people: int, images_per_person: int, seed: int
) -> list[Record]:
    """Test images of randomly chosen people, person by person."""
    split = domain.test
    images = split.gallery if split.query_by == "text" else (*split.query, *split.gallery)
    of_person: dict[int, list[Record]] = {}
    for record in images:
        of_person.setdefault(record.person_id, []).append(record)
    rng = np.random.default_rng(derive_seed(seed, "people", domain.name))
    chosen = rng.permutation(sorted(of_person))[:num_people]
    return [record for person in chosen for record in of_person[int(person)][:images_per_person]]


def _read(domain: Domain, records: Sequence[Record], stream: DomainStream) -> Sample:
    kept: list[int] = []
    pixels: list[np.ndarray] = []
    for readable, decoded in stream.test_images(records):
        kept += [int(index) for index in readable]
        pixels.append(decoded)
    person_ids = np.array([records[index].person_id for index in kept], dtype=np.int64)
    people, inverse = np.unique(person_ids, return_inverse=True)
    positions = inverse.astype(np.int64)
    if len(people) < 2:
        raise ValueError(
            f"disentangle: expected readable images of at least 2 test people of {domain.name}, "
            f"got {len(people)}"
        )
    texts = tuple(records[index].identity for index in kept)
    return Sample(domain.name, np.concatenate(pixels), texts, positions, _paired(positions))


def _paired(positions: Ints) -> np.ndarray:
    """[N] bool: the first images of each person, as many as the person with the fewest has."""
    fewest = np.bincount(positions).min()
    numbers = [int((positions[:index] == person).sum()) for index, person in enumerate(positions)]
    return np.array(numbers) < fewest
