"""The small models that the benchmark trains, each with a fixed seed.

Images are [n, height, width, channels] in Keras and [n, channels, height, width] in PyTorch. Training on the
same machine with the same seed gives the same model up to the order in which threads add.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.converters.data import Part

Array = NDArray[Any]
Augment = Callable[[Array, np.random.Generator], Array]

_MAX_SHIFT = 2
BATCH = 64


def as_given(x: Array, random: np.random.Generator) -> Array:
    return x


def shifted_and_mirrored(x: Array, random: np.random.Generator) -> Array:
    """Return images [n, height, width, channels], each moved by up to 2 pixels, and half of them mirrored."""
    moved = x.copy()
    mirrored = random.random(len(x)) < 0.5
    moved[mirrored] = moved[mirrored, :, ::-1]
    shifts = random.integers(-_MAX_SHIFT, _MAX_SHIFT + 1, (len(x), 2))
    for down in range(-_MAX_SHIFT, _MAX_SHIFT + 1):
        for right in range(-_MAX_SHIFT, _MAX_SHIFT + 1):
            chosen = np.all(shifts == (down, right), axis=1)
            moved[chosen] = np.roll(moved[chosen], (down, right), (1, 2))
    return moved


def channels_first(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return a rate that rises over the first tenth of the training and then falls as a cosine."""
    warm = max(1, steps // 10)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train_torch(
    model: Any,
    train: Part,
    epochs: int,
    seed: int,
    peak: float,
    augment: Augment,
    arrange: Callable[[Array], Array],
) -> Any:
    """Train a PyTorch classifier with AdamW; returns it in inference mode, in the default memory layout."""
    import torch

    random = np.random.default_rng(seed)
    labels = torch.from_numpy(train.y)
    is_images = train.x.ndim == 4
    if is_images:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01)
    per_epoch = len(train) // BATCH
    model.train()
    for epoch in range(epochs):
        inputs = torch.from_numpy(arrange(augment(train.x, random)))
        if is_images:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        order = torch.from_numpy(random.permutation(len(train)))
        for batch in range(per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * per_epoch + batch, epochs * per_epoch, peak)
            chosen = order[batch * BATCH : (batch + 1) * BATCH]
            optimizer.zero_grad()
            scores = model(inputs[chosen])
            torch.nn.functional.cross_entropy(scores, labels[chosen], label_smoothing=0.1).backward()
            optimizer.step()
    return model.eval().to(memory_format=torch.contiguous_format)


def train_keras(model: Any, train: Part, epochs: int, seed: int, peak: float, augment: Augment) -> Any:
    """Train a Keras classifier that answers with scores; AdamW and the schedule of `train_torch`."""
    import keras

    random = np.random.default_rng(seed)
    one_hot = np.eye(int(train.y.max()) + 1, dtype=np.float32)[train.y]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model.compile(optimizer=keras.optimizers.AdamW(peak, weight_decay=0.01), loss=loss)
    for epoch in range(epochs):
        # The rate is set once an epoch: setting it each step would leave the compiled loop.
        model.optimizer.learning_rate = learning_rate(2 * epoch + 1, 2 * epochs, peak)
        model.fit(augment(train.x, random), one_hot, batch_size=BATCH, epochs=1, verbose=0)
    return model


def torch_mlp(features: int, classes: int) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(features, 512), nn.ReLU()),
        *(nn.Linear(512, 512), nn.ReLU()),
        nn.Linear(512, classes),
    )


def torch_digits_cnn() -> Any:
    """Return a CNN of 0.4 M parameters for [n, 1, 8, 8]."""
    from torch import nn

    return nn.Sequential(
        *_torch_block(1, 32),
        *_torch_block(32, 64),
        nn.MaxPool2d(2),
        *_torch_block(64, 128),
        *_torch_block(128, 128),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128 * 4, 256), nn.ReLU(), nn.Linear(256, 10)),
    )


def torch_animals_cnn() -> Any:
    """Return a CNN of 0.8 M parameters and 40 M multiplications for [n, 1, 28, 28]."""
    from torch import nn

    return nn.Sequential(
        *(*_torch_block(1, 32), nn.MaxPool2d(2)),
        *(*_torch_block(32, 64), *_torch_block(64, 128), nn.MaxPool2d(2)),
        *(*_torch_block(128, 128), *_torch_block(128, 256), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256 * 9, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10)),
    )


def torch_motions_cnn(train: Array) -> Any:
    """Return a 1-D CNN for [n, 6, steps] in the sensors' own units, which it brings to one scale itself.

    `train` gives each channel's mean and deviation. The first thing in the graph is `x * scale + shift`, as in
    any exported model that takes what the sensor driver gives.
    """
    import torch
    from torch import nn

    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            mean = torch.from_numpy(train.mean((0, 2), keepdims=True))
            deviation = torch.from_numpy(train.std((0, 2), keepdims=True))
            self.register_buffer("scale", 1 / deviation)
            self.register_buffer("shift", -mean / deviation)

        def forward(self, x: Any) -> Any:
            return x * self.scale + self.shift

    return nn.Sequential(
        Standardised(),
        *(nn.Conv1d(6, 64, 5, padding=2), nn.ReLU()),
        *(nn.Conv1d(64, 128, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Conv1d(128, 128, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 4)),
    )


def keras_mlp(shape: tuple[int, ...], classes: int) -> Any:
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input(shape),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dense(512, activation="relu"),
            layers.Dense(classes),
        ]
    )


def keras_digits_cnn() -> Any:
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((8, 8, 1)),
            *(*_keras_block(32), *_keras_block(64), layers.MaxPooling2D()),
            *(*_keras_block(128), *_keras_block(128), layers.MaxPooling2D()),
            *(layers.Flatten(), layers.Dense(256, activation="relu"), layers.Dense(10)),
        ]
    )


def keras_animals_cnn() -> Any:
    """Return the network of `torch_animals_cnn` in Keras, for [n, 28, 28, 1]."""
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((28, 28, 1)),
            *(*_keras_block(32), layers.MaxPooling2D()),
            *(*_keras_block(64), *_keras_block(128), layers.MaxPooling2D()),
            *(*_keras_block(128), *_keras_block(256), layers.MaxPooling2D()),
            *(layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(0.3), layers.Dense(10)),
        ]
    )


def sklearn_classifier(kind: str, train: Part, seed: int) -> Any:
    """Fit a scikit-learn classifier, `forest`, `boosting` or `logistic`, on flat samples."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    made = {
        "forest": lambda: RandomForestClassifier(100, random_state=seed),
        "boosting": lambda: HistGradientBoostingClassifier(max_iter=30, random_state=seed),
        "logistic": lambda: LogisticRegression(max_iter=1000, random_state=seed),
    }[kind]()
    return made.fit(train.x, train.y)


def seed_everything(framework: str, seed: int) -> None:
    """Seed what initialises weights and shuffles in a framework."""
    if framework == "torch":
        import torch

        torch.manual_seed(seed)
    if framework == "keras":
        import keras

        keras.utils.set_random_seed(seed)


def _torch_block(inputs: int, outputs: int) -> tuple[Any, ...]:
    from torch import nn

    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return (convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _keras_block(outputs: int) -> tuple[Any, ...]:
    from keras import layers

    convolution = layers.Conv2D(outputs, 3, padding="same", use_bias=False)
    # Keras' own momentum of 0.99 needs more steps than there are here.
    return (convolution, layers.BatchNormalization(momentum=0.9, epsilon=1e-5), layers.ReLU())
