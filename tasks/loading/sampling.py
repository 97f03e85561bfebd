"""Plans of identity-balanced batches: the images of every iteration of an epoch.

A plan is a pure function of the person ids and a seed. Every worker computes the same plan and uses
its slice of each batch, and a resumed run continues with the next batch.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def derive_seed(*keys: int | str) -> int:
    """Derive a seed in [0, 2**63 - 1] from a sequence of keys, equal on every machine and run.

    Different sequences give unrelated seeds: 1 differs from "1", ("a", "bc") from ("ab", "c").

    Raises:
        TypeError: a key is neither int nor str.
    """
    digest = hashlib.blake2b(digest_size=8)
    for key in keys:
        if not isinstance(key, int | str) or isinstance(key, bool):
            raise TypeError(f"keys: expected int or str, got {type(key).__name__} {key!r}")
        text = str(key).encode()
        kind = "s" if isinstance(key, str) else "i"
        digest.update(f"{kind}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "big") >> 1


def mix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Apply an element-wise bijection of 64-bit words whose output looks random.

    The finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
    generators", 2014): `mix64(state + n * gamma)` is the n-th output of the generator.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def counter_draws(states: npt.NDArray[np.uint64], num_draws: int) -> npt.NDArray[np.uint64]:
    """First `num_draws` outputs of SplitMix64 for each state: [...] -> [..., num_draws]."""
    steps = np.arange(1, num_draws + 1, dtype=np.uint64) * np.uint64(_GOLDEN_GAMMA)
    return mix64(states[..., None] + steps)


def image_seeds(seed: int, iteration: int, num_positions: int) -> npt.NDArray[np.uint64]:
    """[B] augmentation seeds, one for each position of the global batch of an iteration.

    Seeds belong to positions, so augmentation does not depend on how workers share the batch.

    Args:
        seed: seed of the epoch, for instance `derive_seed(run_seed, domain, stage, epoch)`.
        iteration: index of the batch in the epoch.
        num_positions: B, the global batch size.
    """
    state = np.asarray(derive_seed(seed, iteration), dtype=np.uint64)
    return counter_draws(state, num_positions)


def num_iterations(
    person_ids: npt.NDArray[np.integer], persons_per_batch: int, images_per_person: int
) -> int:
    """Number of batches per epoch: max(1, floor(sum_i max(1, n_i // K) / P)).

    n_i is the number of images of person i.

    Args:
        person_ids: [N] person id of each image.
        persons_per_batch: P.
        images_per_person: K.

    Raises:
        ValueError: there are no images, P or K is below 1, or there are fewer persons than P.
    """
    counts = _image_counts(person_ids, persons_per_batch, images_per_person)
    groups = np.maximum(1, counts // images_per_person)
    return max(1, int(groups.sum()) // persons_per_batch)


def num_underfilled_persons(person_ids: npt.NDArray[np.integer], images_per_person: int) -> int:
    """Number of persons with fewer than K images, which are sampled with replacement."""
    counts = np.unique(person_ids, return_counts=True)[1]
    return int((counts < images_per_person).sum())


def epoch_plan(
    person_ids: npt.NDArray[np.integer],
    persons_per_batch: int,
    images_per_person: int,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Plan the batches of one epoch: [iterations, P * K] indices into `person_ids`.

    Every batch has P distinct persons with K adjacent images each. The images of a person are
    shuffled and divided into groups of K; the remaining n_i mod K images are skipped in this epoch.
    A person with fewer than K images has one group: all images, filled up by sampling with
    replacement.

    Each group is used once if possible. Groups that do not fill a last batch are skipped, from the
    persons with the most groups first, so that no person is skipped unnecessarily. If a person has
    more groups than there are batches, the surplus is skipped, and the persons used least provide
    further groups from a new shuffle. Persons are sampled in proportion to their remaining groups,
    so that persons with many images do not accumulate at the end.

    Args:
        person_ids: [N] person id of each image.
        persons_per_batch: P.
        images_per_person: K.
        seed: the plan is a pure function of the arguments, including the seed.

    Raises:
        ValueError: see `num_iterations`.
    """
    counts = _image_counts(person_ids, persons_per_batch, images_per_person)
    iterations = num_iterations(person_ids, persons_per_batch, images_per_person)
    rng = np.random.default_rng(seed)
    quotas = _quotas(np.maximum(1, counts // images_per_person), iterations, persons_per_batch, rng)
    persons = _schedule(quotas, iterations, persons_per_batch, rng)
    plan = np.empty((iterations * persons_per_batch, images_per_person), dtype=np.int64)
    slots_by_person = np.split(np.argsort(persons.ravel(), kind="stable"), np.cumsum(quotas)[:-1])
    images_by_person = np.split(np.argsort(person_ids, kind="stable"), np.cumsum(counts)[:-1])
    for slots, images in zip(slots_by_person, images_by_person, strict=True):
        if len(slots) > 0:
            plan[slots] = _groups(images, len(slots), images_per_person, rng)
    return plan.reshape(iterations, persons_per_batch * images_per_person)


def cycled_plan(
    person_ids: npt.NDArray[np.integer],
    persons_per_batch: int,
    images_per_person: int,
    seed: int,
    num_batches: int,
) -> npt.NDArray[np.int64]:
    """Plan a given number of batches: [num_batches, P * K] indices into `person_ids`.

    Concatenates `epoch_plan` with different seeds and truncates the last one, so persons repeat
    only after a whole epoch.

    Args:
        person_ids: [N] person id of each image.
        persons_per_batch: P.
        images_per_person: K.
        seed: the plan is a pure function of the arguments, including the seed.
        num_batches: number of batches; a shorter plan is a prefix of a longer one.

    Raises:
        ValueError: see `num_iterations`.
    """
    num_per_epoch = num_iterations(person_ids, persons_per_batch, images_per_person)
    epochs = [
        epoch_plan(person_ids, persons_per_batch, images_per_person, derive_seed(seed, epoch))
        for epoch in range(-(-num_batches // num_per_epoch))
    ]
    empty = np.empty((0, persons_per_batch * images_per_person), dtype=np.int64)
    return np.concatenate([empty, *epochs])[:num_batches]


def _image_counts(
    person_ids: npt.NDArray[np.integer], persons_per_batch: int, images_per_person: int
) -> npt.NDArray[np.int64]:
    """Number of images of each person, in the order of person ids."""
    if person_ids.ndim != 1 or len(person_ids) == 0:
        raise ValueError(
            f"person_ids: expected ids of at least one image, got shape {person_ids.shape}"
        )
    if persons_per_batch < 1 or images_per_person < 1:
        raise ValueError(
            "data.persons_per_batch and data.images_per_person: expected at least 1, "
            f"got {persons_per_batch} and {images_per_person}"
        )
    counts = np.unique(person_ids, return_counts=True)[1]
    if len(counts) < persons_per_batch:
        raise ValueError(
            f"data.persons_per_batch: expected at most {len(counts)}, the number of persons in "
            f"the domain, got {persons_per_batch}; set it to {len(counts)} or less"
        )
    return counts


def _quotas(
    groups: npt.NDArray[np.int64], iterations: int, persons_per_batch: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Number of batches of each person: at most one group per batch, iterations * P in total."""
    quotas = np.minimum(groups, iterations)
    missing = iterations * persons_per_batch - int(quotas.sum())
    for _ in range(-missing):
        quotas[rng.choice(np.flatnonzero(quotas == quotas.max()))] -= 1
    for _ in range(missing):
        quotas[rng.choice(np.flatnonzero(quotas == quotas.min()))] += 1
    return quotas


def _schedule(
    quotas: npt.NDArray[np.int64], iterations: int, persons_per_batch: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """[iterations, P] distinct persons for each batch, person i in exactly quotas[i] of them.

    A person with as many remaining groups as remaining batches must be in each of them. No quota
    exceeds the number of batches, so there are at most P such persons.
    """
    remaining = quotas.copy()
    schedule = np.empty((iterations, persons_per_batch), dtype=np.int64)
    for iteration in range(iterations):
        due = remaining == iterations - iteration
        # The persons with the smallest exponential times are a sample without replacement in
        # proportion to the remaining groups.
        times = rng.exponential(size=len(remaining)) / np.maximum(remaining, 1)
        times[due] = -1.0
        times[remaining == 0] = np.inf
        chosen = np.argsort(times, kind="stable")[:persons_per_batch]
        remaining[chosen] -= 1
        schedule[iteration] = rng.permutation(chosen)
    return schedule


def _groups(
    images: npt.NDArray[np.int64],
    num_groups: int,
    images_per_person: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """[num_groups, K] images of one person."""
    if len(images) < images_per_person:
        num_extra = images_per_person - len(images)
        return np.stack(
            [
                np.concatenate([rng.permutation(images), rng.choice(images, num_extra)])
                for _ in range(num_groups)
            ]
        )
    per_shuffle = len(images) // images_per_person
    num_shuffles = -(-num_groups // per_shuffle)
    shuffles = [
        rng.permutation(images)[: per_shuffle * images_per_person] for _ in range(num_shuffles)
    ]
    return np.concatenate(shuffles).reshape(-1, images_per_person)[:num_groups]
