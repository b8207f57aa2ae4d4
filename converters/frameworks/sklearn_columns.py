"""Columns that a scikit-learn pipeline picks by name, each of which becomes an input of its own."""

from collections.abc import Iterator
from typing import Any


def names(model: Any) -> tuple[str, ...]:
    """Return the columns that the first step picks by name, in the order of the data; none if by position."""
    transformer = _column_transformer(model)
    if transformer is None:
        return ()
    picked = {column for _, columns in _parts(transformer) for column in columns if isinstance(column, str)}
    known = [str(name) for name in getattr(transformer, "feature_names_in_", ())]
    return tuple(name for name in known if name in picked)


def texts(model: Any) -> set[str]:
    """Return the columns that an encoder knows words of."""
    found = set()
    for part, columns in _parts(_column_transformer(model)):
        for step in _steps(part):
            for column, categories in zip(columns, getattr(step, "categories_", ()), strict=False):
                if categories.dtype.kind in "OSU":
                    found.add(str(column))
    return found


def _column_transformer(model: Any) -> Any:
    """Return the transformer of columns that is the model or the first step of its pipeline, or None."""
    from sklearn.compose import ColumnTransformer

    while hasattr(model, "steps") or hasattr(model, "best_estimator_"):
        model = model.steps[0][1] if hasattr(model, "steps") else model.best_estimator_
    return model if isinstance(model, ColumnTransformer) else None


def _parts(transformer: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Yield the fitted transformers with their columns; the rest passes through by position or name."""
    known = [str(name) for name in getattr(transformer, "feature_names_in_", ())]
    by_name = any(
        isinstance(column, str)
        for _, _, columns in transformer.transformers_
        if isinstance(columns, list | tuple)
        for column in columns
    )
    for _, part, columns in transformer.transformers_:
        if isinstance(part, str) and part == "drop":
            continue
        listed = [columns] if isinstance(columns, str) else list(columns)
        if by_name:
            # The remainder is told by position when the others are told by name.
            listed = [known[column] if not isinstance(column, str) else column for column in listed]
        yield part, listed


def _steps(part: Any) -> list[Any]:
    return [step for _, step in part.steps] if hasattr(part, "steps") else [part]
