"""Values of command line options; each raises ArgumentTypeError, which argparse shows."""

import argparse


def words(text: str) -> list[str]:
    """Return the words between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' should be at least 1")
    return number


def non_negative(text: str) -> float:
    """Return a finite number, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' should be a number, 0 or more")
    return number


def value_range(text: str) -> tuple[str, tuple[float, float]]:
    """Return name, lowest and highest value of NAME=LOW:HIGH."""
    name, _, bounds = text.rpartition("=")
    low, _, high = bounds.partition(":")
    try:
        values = (float(low), float(high))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=0:255") from None
    if not name or not values[0] <= values[1]:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=0:255, the lower bound first")
    return name, values


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return name and sizes of NAME=1,3,48,320."""
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=1,3,48,320") from None
    if not name:
        raise argparse.ArgumentTypeError(f"'{text}' should look like NAME=1,3,48,320")
    return name, shape


def shares(text: str) -> tuple[float, ...]:
    """Return numbers between 0 and 1, separated by commas."""
    try:
        found = tuple(float(word) for word in words(text))
    except ValueError:
        found = ()
    if not found or not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"'{text}' should be numbers between 0 and 1, as 0.5,0.8")
    return found
