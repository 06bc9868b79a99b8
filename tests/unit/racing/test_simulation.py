"""Whole sweeps, simulated: how often the best merge is dropped, and which share of the forwards a race takes."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from fusion_eval.racing import Racing
from fusion_eval.racing.bounds import draw_order, evidence

TA8 = {  # task: test samples; about the accuracies of CLIP ViT-B/32, as it is and merged at its best
    "sun397": (19850, 0.63, 0.65),
    "stanford_cars": (8041, 0.60, 0.61),
    "resisc45": (6300, 0.60, 0.72),
    "eurosat": (2700, 0.45, 0.80),
    "svhn": (26032, 0.32, 0.80),
    "gtsrb": (12630, 0.33, 0.72),
    "mnist": (10000, 0.48, 0.97),
    "dtd": (1880, 0.44, 0.52),
}


def sweep(hits, counts, jobs, racing, seed):
    """Merges in turn, as jobs of a sweep: who is dropped, and which share of all forwards that took."""
    weights = np.repeat(1 / (len(counts) * counts), counts)
    order, looks = draw_order(weights, seed), racing.looks(len(weights))
    means = hits @ weights
    best, finished, dropped, work = jobs[0], 1, set(), len(weights)
    for job in jobs[1:]:
        differences = (hits[job].astype(float) - hits[best])[order]
        enough = np.log(1 / racing.level(finished))
        refuted = np.maximum.accumulate(evidence(differences, weights[order])) >= enough
        lost = next((count for count in looks if refuted[count - 1]), None)
        if lost is not None:
            dropped.add(job)
            work += lost
        else:
            work, finished = work + len(weights), finished + 1
            best = job if means[job] > means[best] else best
    return dropped, work / hits.size


def ascending(merges, seed):
    return list(range(merges))


def shuffled(merges, seed):
    return list(np.random.default_rng(seed).permutation(merges))


def best_first(merges, seed):
    """As who starts at 0.3, which the literature recommends, and goes away from it."""
    return sorted(range(merges), key=lambda merge: abs(merge - 5))


@pytest.fixture(scope="module")
def embedded():
    """A real sweep: the embedded pool, scalings 0.05 to 1 (tests/oracles/make_racing_sweep.py)."""
    with np.load(Path(__file__).parents[2] / "oracles" / "racing_sweep.npz") as kept:
        counts = kept["counts"]
        return np.unpackbits(kept["hits"], axis=1, count=counts.sum()).astype(bool), counts


@pytest.fixture(scope="module")
def ta8():
    """A pool of the sizes of TA8, scalings 0.05 to 1: neighbours err on the same samples, those far apart on others."""
    rng, scalings, hits = np.random.default_rng(0), np.linspace(0.05, 1, 20), []
    for count, base, peak in TA8.values():
        best = 0.2 if base > 0.55 else 0.35
        rise, fall = np.clip(1 - scalings / best, 0, 1), np.clip((scalings - best) / 0.8, 0, 1)
        accuracy = peak - (peak - base) * rise**2 - 0.8 * peak * fall**1.5
        drift = 0.15 * rng.normal(size=(20, count)).cumsum(axis=0)
        ease = (rng.normal(size=count) + drift) / np.sqrt(1 + 0.15**2 * np.arange(1, 21))[:, None]
        hits.append(ease < norm.ppf(accuracy)[:, None])
    return np.concatenate(hits, axis=1), np.array([count for count, _, _ in TA8.values()])


@pytest.mark.parametrize(
    ("pool", "jobs", "at_most"),
    [
        ("embedded", ascending, 0.63),
        ("embedded", shuffled, 0.52),
        ("embedded", best_first, 0.47),
        ("ta8", ascending, 0.42),
        ("ta8", shuffled, 1 / 3),
        ("ta8", best_first, 1 / 6),
    ],
)
def test_the_share_of_the_forwards_that_a_sweep_of_twenty_takes(pool, jobs, at_most, request):
    hits, counts = request.getfixturevalue(pool)
    draws = 10 if pool == "embedded" else 3
    sweeps = [sweep(hits, counts, jobs(20, seed), Racing(), seed) for seed in range(draws)]
    share = np.mean([work for _, work in sweeps])
    assert 0.05 < share < at_most
    best = int((hits @ np.repeat(1 / (len(counts) * counts), counts)).argmax())
    assert not any(best in dropped for dropped, _ in sweeps)
    print(
        f"{pool}, {jobs.__name__}: {share:.2f} of the forwards, {20 - np.mean([len(lost) for lost, _ in sweeps]):.1f}"
        " merges to the end"
    )


@pytest.mark.parametrize("error", [0.05, 0.3])
def test_the_best_is_dropped_no_more_often_than_stated(error):
    """The hardest case: each merge is better than all before it, by one sample, and errs on others than they."""
    rng, counts = np.random.default_rng(0), np.array([150, 450])
    hits = np.array([np.concatenate([rng.permutation(count) < 0.7 * count for count in counts]) for _ in range(5)])
    for merge in range(1, 5):
        missed = np.flatnonzero(~hits[merge])[:merge]
        hits[merge, missed] = True
    draws = 400
    drops = [sweep(hits, counts, ascending(5, 0), Racing(error=error), seed)[0] for seed in range(draws)]
    assert np.mean([4 in dropped for dropped in drops]) <= error
    assert np.mean([bool(dropped) for dropped in drops]) <= error + 3 * np.sqrt(error * (1 - error) / draws)


def test_a_worse_merge_may_be_kept_but_hardly_a_much_worse_one(embedded):
    hits, counts = embedded
    for seed in range(5):
        dropped, _ = sweep(hits, counts, best_first(20, seed), Racing(), seed)
        assert {13, 14, 15, 16, 17, 18, 19} <= dropped
