"""Few combinations of settings in which every pair, or every triple, of values occurs."""

import itertools


def covering(combinations, size: int) -> list[tuple]:
    """Choose some of the combinations, greedily: every `size` values that occur together still do.

    covering(product("ab", "cd", "ef"), 2) are four of the eight, with every pair of letters.
    """
    everything = list(combinations)

    def groups(combination):
        return set(itertools.combinations(enumerate(combination), size))

    missing, chosen = set().union(*map(groups, everything)), []
    while missing:
        chosen.append(max(everything, key=lambda combination: len(groups(combination) & missing)))
        missing -= groups(chosen[-1])
    return chosen
