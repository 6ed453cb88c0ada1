"""Numbers as options take them: types for argparse that refuse what only looks like a number.

`int` and `float` accept more than anyone means: "nan", "inf", "1_000" and the digits of every
script. Each type here raises `argparse.ArgumentTypeError` that names the value and what would do.
"""

import argparse
import re
from collections.abc import Callable

_WHOLE = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
# Beyond this a number cannot be meant, and torch or the C libraries could not hold it.
_LARGEST = 2**31 - 1
_FARTHEST = 1e9


def whole_number(*, least: int = -_LARGEST, most: int = _LARGEST) -> Callable[[str], int]:
    """A type of whole numbers from `least` to `most`, in the digits 0 to 9."""

    def read(text: str) -> int:
        # The length first: Python refuses to read thousands of digits.
        value = int(text) if _WHOLE.fullmatch(text) and len(text) < 20 else None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number{_range(least, most, _LARGEST)}, not {text!a}"
            )
        return value

    return read


def finite_number(*, least: float = -_FARTHEST, most: float = _FARTHEST) -> Callable[[str], float]:
    """A type of finite numbers from `least` to `most`, in the digits 0 to 9."""

    def read(text: str) -> float:
        value = float(text) if _DECIMAL.fullmatch(text) else None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be a number{_range(least, most, _FARTHEST)}, not {text!a}"
            )
        return value

    return read


def _range(least: float, most: float, limit: float) -> str:
    if most < limit:
        return f" from {least:g} to {most:g}"
    return f" of at least {least:g}" if least > -limit else ""


positive = whole_number(least=1)
count = whole_number(least=0)
