"""The binomial distribution by the incomplete beta function, without SciPy. Pure."""

from __future__ import annotations

import math

_TINY = 1e-300
_CLOSE = 1e-15
_MOST_TERMS = 100_000
_NORMAL_975 = 1.959963984540054


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), to about 1e-12.

    Continued fraction 8.17.22 of the NIST Digital Library of Mathematical Functions, by Lentz's method; it needs about
    √max(a, b) terms.

    Args:
        x: 0 ≤ x ≤ 1.
        a: > 0.
        b: > 0.
    """
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - beta_cdf(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / _not_zero(1.0 + term * d)
            c = _not_zero(1.0 + term / c)
            step = c * d
            value *= step
        if abs(step - 1.0) < _CLOSE:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def at_most(events_n: int, trials_n: int, chance: float) -> float:
    """Return the probability of at most `events_n` events in `trials_n` independent trials of `chance` each."""
    return 1.0 if events_n >= trials_n else beta_cdf(1.0 - chance, trials_n - events_n, events_n + 1.0)


def rank_of(n: float, quantile: float, confidence: float) -> float:
    """Return the real-valued rank k whose order statistic lies at or below a quantile with this probability.

    Of n independent samples the k-th smallest has the distribution Beta(k, n - k + 1) on the scale of shares, which
    is defined for real k and n too (Hutson, "Calculating nonparametric confidence intervals for quantiles using
    fractional order statistics", J. Appl. Statist. 26, 1999). The result lies in 0 … n + 1; below 1 or above n no
    such order statistic exists.

    Args:
        n: independent samples, ≥ 1; may be an effective sample size.
        quantile: 0 < quantile < 1.
        confidence: 0 < confidence < 1.
    """
    low, high = 0.0, n + 1.0
    guess = quantile * (n + 1.0)
    # I_q(k, n - k + 1) falls as k grows: bisection, with a first step to where the normal approximation ends.
    reach = 4.0 * math.sqrt(n * quantile * (1.0 - quantile)) + 4.0
    for bound in (guess - reach, guess + reach):
        if low < bound < high:
            below = beta_cdf(quantile, bound, n - bound + 1.0) < confidence
            low, high = (low, bound) if below else (bound, high)
    while high - low > 1e-6 * (1.0 + high):
        middle = (low + high) / 2.0
        below = beta_cdf(quantile, middle, n - middle + 1.0) < confidence
        low, high = (low, middle) if below else (middle, high)
    return (low + high) / 2.0


def student_975(freedom: float) -> float:
    """Return the 97.5 % point of Student's t for ≥ 3 degrees of freedom, to 1 % (Abramowitz and Stegun 26.7.5)."""
    z = _NORMAL_975
    first = (z**3 + z) / 4.0
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96.0
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384.0
    return z + first / freedom + second / freedom**2 + third / freedom**3
