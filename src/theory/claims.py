"""The usual kinds of claim: a number is close to another one, at most a bound, or at least a bound."""

from src.theory.base import Claim


def near(
    statement: str, source: str, expected: float, measured: float, tolerance: float, why: str, refuted: str = ""
) -> Claim:
    """A claim that two numbers agree within an absolute tolerance; `why` says why this much is allowed."""
    holds = bool(abs(measured - expected) <= tolerance)
    return Claim(statement, source, float(expected), float(measured), f"{tolerance:.2g}: {why}", holds, refuted)


def at_most(statement: str, source: str, bound: float, measured: float, why: str, refuted: str = "") -> Claim:
    """A claim that a number does not exceed a bound; `why` says why this is the bound."""
    return Claim(statement, source, f"≤ {bound:.4g}", float(measured), why, bool(measured <= bound), refuted)


def at_least(statement: str, source: str, bound: float, measured: float, why: str, refuted: str = "") -> Claim:
    """A claim that a number does not fall below a bound; `why` says why this is the bound."""
    return Claim(statement, source, f"≥ {bound:.4g}", float(measured), why, bool(measured >= bound), refuted)
