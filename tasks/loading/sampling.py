"""Identity-balanced batches as a plan: which images every iteration sees, before it happens.

A plan is a pure function of the person ids and a seed, so every worker computes the same one and
takes its slice, and a resumed run goes on with the very batch it was at.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def derive_seed(*keys: int | str) -> int:
    """A seed in 0..2**63 - 1 for a path of keys, the same on every machine and in every run.

    Different paths give unrelated seeds: 1 differs from "1", ("a", "bc") from ("ab", "c").

    Raises:
        TypeError: a key is neither int nor str.
    """
    digest = hashlib.blake2b(digest_size=8)
    for key in keys:
        if not isinstance(key, int | str) or isinstance(key, bool):
            raise TypeError(f"a seed's keys are int or str, got {type(key).__name__} {key!r}")
        text = str(key).encode()
        kind = "s" if isinstance(key, str) else "i"
        digest.update(f"{kind}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "big") >> 1


def mix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Element-wise bijection of 64-bit words whose output looks random for any input pattern.

    The finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
    generators", 2014), with which `mix64(state + n * gamma)` is the generator's n-th draw.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def counter_draws(states: npt.NDArray[np.uint64], num_draws: int) -> npt.NDArray[np.uint64]:
    """The first `num_draws` outputs of SplitMix64 from each state: [...] -> [..., num_draws]."""
    steps = np.arange(1, num_draws + 1, dtype=np.uint64) * np.uint64(_GOLDEN_GAMMA)
    return mix64(states[..., None] + steps)


def image_seeds(seed: int, iteration: int, num_positions: int) -> npt.NDArray[np.uint64]:
    """[B] one augmentation seed for each position of the global batch of an iteration.

    The seed belongs to the position, so however the batch is split over workers, an image is
    augmented alike.

    Args:
        seed: of the epoch: `derive_seed(run seed, domain, stage, epoch)`, say.
        iteration: position of the batch in its epoch.
        num_positions: B, the global batch size.
    """
    state = np.asarray(derive_seed(seed, iteration), dtype=np.uint64)
    return counter_draws(state, num_positions)


def num_iterations(
    person_ids: npt.NDArray[np.integer], persons_per_batch: int, images_per_person: int
) -> int:
    """Batches of an epoch: max(1, floor(sum_i max(1, n_i // K) / P)), n_i images of person i.

    Args:
        person_ids: [N] the person in each image.
        persons_per_batch: P.
        images_per_person: K.

    Raises:
        ValueError: no image, P or K below 1, or fewer persons than P.
    """
    counts = _image_counts(person_ids, persons_per_batch, images_per_person)
    groups = np.maximum(1, counts // images_per_person)
    return max(1, int(groups.sum()) // persons_per_batch)


def underfilled_persons(person_ids: npt.NDArray[np.integer], images_per_person: int) -> int:
    """Number of persons with fewer than K images, who are drawn with replacement."""
    counts = np.unique(person_ids, return_counts=True)[1]
    return int((counts < images_per_person).sum())


def epoch_plan(
    person_ids: npt.NDArray[np.integer],
    persons_per_batch: int,
    images_per_person: int,
    seed: int,
) -> npt.NDArray[np.int64]:
    """The images of every batch of one epoch: [iterations, P * K] positions in `person_ids`.

    Every batch holds P distinct persons with K images each, a person's images side by side.
    A person's images are shuffled and cut into groups of K; the n_i mod K left over wait for
    another epoch's shuffle. A person with fewer than K images gives one group: all of them, and
    draws with replacement up to K.

    Each group is used once where that is possible. What does not fill a last batch is left out,
    from the persons with the most groups first, so nobody misses an epoch who need not. Where one
    person has more groups than there are batches, the rest of theirs is left out and the persons
    used least give further groups, from a new shuffle. Persons are drawn in proportion to the
    groups they still have to give, so the big ones do not pile up at the end.

    Args:
        person_ids: [N] the person in each image.
        persons_per_batch: P.
        images_per_person: K.
        seed: the plan is a pure function of it and of the other arguments.

    Raises:
        ValueError: as `num_iterations`.
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
    """As many batches as are asked for: [num_batches, P * K] positions in `person_ids`.

    One `epoch_plan` after another, each of a seed of its own; the last is cut short. So nobody
    comes again before everybody came who fits a plan's whole batches.

    Args:
        person_ids: [N] the person in each image.
        persons_per_batch: P.
        images_per_person: K.
        seed: the plan is a pure function of it and of the other arguments.
        num_batches: batches to plan; a shorter plan is the beginning of a longer one.

    Raises:
        ValueError: as `num_iterations`.
    """
    per_round = num_iterations(person_ids, persons_per_batch, images_per_person)
    rounds = [
        epoch_plan(person_ids, persons_per_batch, images_per_person, derive_seed(seed, number))
        for number in range(-(-num_batches // per_round))
    ]
    empty = np.empty((0, persons_per_batch * images_per_person), dtype=np.int64)
    return np.concatenate([empty, *rounds])[:num_batches]


def _image_counts(
    person_ids: npt.NDArray[np.integer], persons_per_batch: int, images_per_person: int
) -> npt.NDArray[np.int64]:
    """Images of each person, in order of their ids."""
    if person_ids.ndim != 1 or len(person_ids) == 0:
        raise ValueError(
            f"expected the person ids of at least one image, got shape {person_ids.shape}"
        )
    if persons_per_batch < 1 or images_per_person < 1:
        raise ValueError(
            "data.persons_per_batch and data.images_per_person: expected at least 1, "
            f"got {persons_per_batch} and {images_per_person}"
        )
    counts = np.unique(person_ids, return_counts=True)[1]
    if len(counts) < persons_per_batch:
        raise ValueError(
            f"data.persons_per_batch: a batch of {persons_per_batch} distinct persons was asked "
            f"for, but the domain has {len(counts)}; set it to {len(counts)} or less"
        )
    return counts


def _quotas(
    groups: npt.NDArray[np.int64], iterations: int, persons_per_batch: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """In how many batches each person appears: at most one in each, iterations * P in all."""
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

    A person who has as many groups left as there are batches left has to be in each of them; as
    no quota exceeds the number of batches, there are never more than P of these.
    """
    remaining = quotas.copy()
    schedule = np.empty((iterations, persons_per_batch), dtype=np.int64)
    for iteration in range(iterations):
        due = remaining == iterations - iteration
        # The smallest of exponential times with these rates: a draw without replacement in
        # proportion to what remains.
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
