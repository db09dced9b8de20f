"""Of a test's many cases those in which every two values of its parameters meet (pairwise testing).

A fault that needs three values at once is left to the other cases, which are slow tests. Whoever names a
single case runs it.
"""

import itertools

import pytest


def every_pair(cases):
    """Places of as few `cases` as a greedy search finds in which all pairs of values occur that occur at all.

    cases: tuples of equal length, of hashable values.
    """
    left = [set(itertools.combinations(enumerate(case), 2)) for case in cases]
    missing = set().union(*left)
    chosen = []
    while missing:
        place = max(range(len(left)), key=lambda place: len(left[place] & missing))
        chosen.append(place)
        missing -= left[place]
    return sorted(chosen)


def mark(items):
    """Mark as slow what ``pytest.mark.pairs`` leaves to the slow tests."""
    tests = {}
    for item in items:
        if item.get_closest_marker("pairs"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in tests.values():
        # The same parameter has equal values under equal names.
        values = [tuple(map(repr, case.callspec.params.values())) for case in cases]
        for place in set(range(len(cases))) - set(every_pair(values) if len(cases) > 1 else [0]):
            cases[place].add_marker(pytest.mark.slow)
