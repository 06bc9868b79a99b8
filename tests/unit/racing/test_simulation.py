"""Whole sweeps, simulated: how often the best merge is dropped, and how much work a race saves."""

import numpy as np
import pytest

from fusion_eval.racing import Racing
from fusion_eval.racing.bounds import upper_bounds

SAMPLES = 4000


def sweep(hits, racing, order):
    """Merges in turn, as jobs of a sweep: who is dropped, and on how many samples each merge was run."""
    best, dropped, work = 0, set(), [SAMPLES]
    for merge in range(1, len(hits)):
        differences = (hits[merge] - hits[best])[order]
        for seen in racing.looks(SAMPLES):
            if upper_bounds(differences[:seen], SAMPLES, -1, 1, racing.error)[-1] < 0:
                dropped.add(merge)
                work.append(seen)
                break
        else:
            work.append(SAMPLES + seen)  # what was raced on is evaluated once more, with all the rest
            best = merge if hits[merge].mean() > hits[best].mean() else best
    return dropped, sum(work)


def merges(accuracies, seed):
    """Which samples each merge has right: errors go together, as those of merges do."""
    rng = np.random.default_rng(seed)
    difficulty, own = rng.random(SAMPLES), rng.normal(scale=0.05, size=(len(accuracies), SAMPLES))
    return (difficulty + own < np.array(accuracies)[:, None]).astype(float)


@pytest.mark.parametrize("error", [0.05, 0.3])
def test_the_best_is_dropped_no_more_often_than_stated(error):
    """The hardest case: all are equally good but for chance, so that a wrong drop is most likely."""
    hits = merges([0.7] * 6, seed=0)
    best, racing, draws = int(hits.mean(axis=1).argmax()), Racing(error=error), 300
    rng = np.random.default_rng(1)
    order_of_jobs = [index for index in range(6) if index != best] + [best]  # it meets the best of the others
    lost = sum(5 in sweep(hits[order_of_jobs], racing, rng.permutation(SAMPLES))[0] for _ in range(draws))
    assert lost / draws <= error


def test_a_scaling_sweep_takes_about_half_of_the_work():
    scalings = np.linspace(0.05, 1, 20)
    hits = merges(0.75 - 0.35 * (scalings - 0.3) ** 2 - 0.1 * scalings, seed=2)
    best = int(hits.mean(axis=1).argmax())
    rng = np.random.default_rng(3)
    shares = []
    for _ in range(20):
        dropped, work = sweep(hits, Racing(), rng.permutation(SAMPLES))
        assert best not in dropped
        shares.append(work / (20 * SAMPLES))
    assert 0.1 < np.mean(shares) < 0.6
    print(f"work: {np.mean(shares):.2f} of that without a race")
