"""Numbers that users give, and the interval that each must lie in."""

from typing import Any

from jaxdbd.errors import UserError


def is_within(value: Any, interval: str) -> bool:
    """Whether a value is a number of an interval such as "[0, 1)", which has 0 in it, and not 1. NaN is in none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval.startswith("[") else value > low
    return above and (value <= high if interval.endswith("]") else value < high)


def check_within(name: str, value: Any, interval: str) -> None:
    """Raises UserError that begins with `name` where a number, or one of several, is not in an interval."""
    numbers = value if isinstance(value, tuple | list) else (value,)
    for number in numbers:
        if not is_within(number, interval):
            whole = f"{value}: " if len(numbers) > 1 else ""
            raise UserError(f"{name}: {whole}{number!r} is not in {interval}")
