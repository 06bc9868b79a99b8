"""Kept, lost, gained and never, against pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusion_eval.report.flips import PATTERNS, count_flips, count_patterns, flips_by_class


@given(arrays.arrays(bool, st.tuples(st.integers(0, 60), st.just(3))), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_they_are_the_cells_of_a_cross_table(right, classes):
    base, expert, merged = right.T
    flips = count_flips(base, merged)
    table = pd.crosstab(pd.Categorical(base, [False, True]), pd.Categorical(merged, [False, True]), dropna=False)
    assert [flips.kept, flips.lost, flips.gained, flips.never] == [
        table.loc[True, True],
        table.loc[True, False],
        table.loc[False, True],
        table.loc[False, False],
    ]
    target = np.arange(len(base)) % classes
    by_class = flips_by_class(base, merged, target)
    assert list(by_class) == sorted(set(target))
    assert sum(found.lost for found in by_class.values()) == flips.lost

    patterns = count_patterns({"base": base, "expert": expert, "merged": merged})
    assert sum(patterns.values()) == len(base)
    groups = pd.DataFrame(right).value_counts().to_dict()
    assert {pattern: patterns[name] for pattern, name in PATTERNS.items() if patterns[name]} == groups
    assert sum(count for name, count in patterns.items() if name.startswith(("kept", "gained"))) == merged.sum()
