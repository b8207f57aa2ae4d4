"""Both Kerases, imported once."""

from typing import Any

import pytest

from converters.frameworks import keras, tf_keras


@pytest.fixture(scope="session")
def keras3() -> Any:
    return keras.library()


@pytest.fixture(scope="session")
def legacy() -> Any:
    return tf_keras.library()
