"""Small Keras models, for Keras 3 and legacy Keras alike; every layer has a fixed name."""

from collections.abc import Callable
from typing import Any

SEED = 7


def cnn(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((8, 8, 1), name="image"),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise"),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flat"),
            layers.Dropout(0.2, name="dropout"),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="cnn",
    )


def several(keras: Any) -> Any:
    """Two inputs and two outputs whose order is not that of their names."""
    layers = keras.layers
    first, second = layers.Input((12,), name="zebra"), layers.Input((5,), name="ant")
    both = [layers.Dense(6, name="left")(first), layers.Dense(7, activation="relu", name="right")(second)]
    joined = layers.Concatenate(name="joined")(both)
    outputs = [
        layers.Dense(3, activation="softmax", name="species")(joined),
        layers.Dense(1, name="age")(joined),
    ]
    return keras.Model([first, second], outputs, name="several")


def by_name(keras: Any) -> Any:
    """Inputs as a dictionary."""
    layers = keras.layers
    first, second = layers.Input((4,), name="zebra"), layers.Input((3,), name="ant")
    joined = layers.Concatenate(name="joined")([first, second])
    return keras.Model({"zebra": first, "ant": second}, layers.Dense(2, name="out")(joined), name="by_name")


def conv1d(keras: Any) -> Any:
    """For six channels of an inertial sensor."""
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((20, 6), name="imu"),
            layers.Conv1D(8, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling1D(name="mean"),
            layers.Dense(4, activation="softmax", name="activity"),
        ],
        name="conv1d",
    )


def lstm(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((10, 6), name="imu"),
            layers.LSTM(5, name="lstm"),
            layers.Dense(4, activation="softmax", name="activity"),
        ],
        name="lstm",
    )


def gru(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((6, 3), name="imu"),
            layers.Bidirectional(layers.GRU(4, return_sequences=True, name="gru"), name="both"),
            layers.GRU(3, name="last"),
            layers.Dense(2, name="activity"),
        ],
        name="gru",
    )


def attention(keras: Any) -> Any:
    """With integer inputs."""
    layers = keras.layers
    ids = layers.Input((8,), dtype="int32", name="ids")
    tokens = layers.Embedding(20, 8, name="embedding")(ids)
    mixed = layers.MultiHeadAttention(2, 4, name="attention")(tokens, tokens)
    normal = layers.LayerNormalization(name="norm")(layers.Add(name="add")([tokens, mixed]))
    mean = layers.GlobalAveragePooling1D(name="mean")(normal)
    return keras.Model(ids, layers.Dense(3, name="topic")(mean), name="attention")


def residual(keras: Any) -> Any:
    """A merge of two convolutions, then a chain."""
    layers = keras.layers
    image = layers.Input((8, 8, 1), name="image")
    first = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(image)
    inner = layers.Conv2D(8, 3, padding="same", activation="relu", name="inner")(first)
    second = layers.Conv2D(4, 3, padding="same", name="second")(inner)
    merged = layers.ReLU(name="relu")(first + second)
    mean = layers.GlobalAveragePooling2D(name="mean")(merged)
    hidden = layers.Dense(6, activation="relu", name="hidden")(mean)
    return keras.Model(image, layers.Dense(10, name="digit")(hidden), name="residual")


ZOO: dict[str, Callable[[Any], Any]] = {
    build.__name__: build for build in (cnn, several, by_name, conv1d, lstm, gru, attention, residual)
}


def made(keras: Any, name: str) -> Any:
    """Return a model with seeded weights, and moving averages that differ from their defaults."""
    keras.utils.set_random_seed(SEED)
    model = ZOO[name](keras)
    model.set_weights([weights + 0.01 for weights in model.get_weights()])
    return model


def absolute_error(targets: Any, outputs: Any) -> Any:
    """A loss of the user's own."""
    import tensorflow as tf

    return tf.reduce_mean(tf.abs(targets - outputs))
