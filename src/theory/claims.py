"""The usual forms of a claim: a number near another one, below a bound, or above one."""

from src.theory.base import Claim


def near(
    statement: str, source: str, expected: float, measured: float, tolerance: float, why: str, refuted: str = ""
) -> Claim:
    """A claim that two numbers agree up to an absolute tolerance, and why so much is allowed."""
    holds = bool(abs(measured - expected) <= tolerance)
    return Claim(statement, source, float(expected), float(measured), f"{tolerance:.2g}: {why}", holds, refuted)


def at_most(statement: str, source: str, bound: float, measured: float, why: str, refuted: str = "") -> Claim:
    """A claim that a number does not exceed a bound, and why the bound is this one."""
    return Claim(statement, source, f"≤ {bound:.4g}", float(measured), why, bool(measured <= bound), refuted)


def at_least(statement: str, source: str, bound: float, measured: float, why: str, refuted: str = "") -> Claim:
    """A claim that a number does not fall below a bound, and why the bound is this one."""
    return Claim(statement, source, f"≥ {bound:.4g}", float(measured), why, bool(measured >= bound), refuted)
