"""The largest number that fits."""

from collections.abc import Callable


def largest_that(fits: Callable[[int], bool], highest: int) -> int:
    """The largest number from 1 to `highest` that fits, where 1 does and nothing fits above one that does not.

    It is sought near `highest`: down in steps that double, then by halves.
    """
    found, too_many, step = highest, highest + 1, 1
    while found > 1 and not fits(found):
        found, too_many, step = max(1, found - step), found, 2 * step
    while too_many - found > 1:
        middle = (found + too_many) // 2
        found, too_many = (middle, too_many) if fits(middle) else (found, middle)
    return found
