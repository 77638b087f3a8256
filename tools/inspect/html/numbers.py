"""Numbers as people read them."""

from __future__ import annotations

_STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def compact(count: float) -> str:
    """Return a count in three digits.

    >>> [compact(count) for count in (0, 999, 9_999, 12_345, 1_500_000, 2_000_000_000)]
    ['0', '999', '9,999', '12.3 k', '1.5 M', '2 B']
    """
    if count < 10_000:
        return f"{count:,.0f}"
    for step, letter in _STEPS:
        if count >= step:
            digits = f"{count / step:.3g}" if count / step < 1000 else f"{count / step:,.0f}"
            return f"{digits} {letter}"
    raise AssertionError("the last step is below 10,000")


def percent(share: float) -> str:
    """Return a share.

    >>> [percent(share) for share in (0, 1, 0.123, 0.0123, 0.00001)]
    ['0 %', '100 %', '12.3 %', '1.2 %', '0.001 %']
    """
    if not share or share == 1:
        return f"{share:.0%}".replace("%", " %")
    if share >= 0.001:
        return f"{100 * share:.1f} %"
    return f"{100 * share:.1g} %" if share >= 1e-6 else "< 0.0001 %"
