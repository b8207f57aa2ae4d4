"""Tiny PyTorch models, each for something that the conversion has to get right."""

import numpy as np
import torch
from torch import nn

from converters.arrays import Array


class Cnn(nn.Module):
    """Normalization and dropout behave otherwise in training; `view` keeps a free batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(8 * 16, 16)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 4)

    def forward(self, image):
        x = torch.relu(self.norm(self.conv(image)))
        x = self.pool(torch.relu(self.depthwise(x)))
        x = self.drop(torch.relu(self.hidden(x.view(x.size(0), -1))))
        return self.head(x)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(5, 4)

    def forward(self, left, right, scale=None):
        x, y = self.a(left), self.b(right)
        return (x - y, x * y) if scale is None else (x * scale, y)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, samples):
        states, _ = self.gru(samples)
        return {"logits": self.head(states[:, -1]), "mean": states.mean(1)}


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        logits = self.head(self.embedding(tokens).mean(1))
        return logits, logits.argmax(1)


class Residual(nn.Module):
    """What the convolutions give is added, so neither may lose channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, image):
        x = self.first(image)
        return self.head((x + self.second(x)).mean((2, 3)))


class Sorting(nn.Module):
    """Uses an operator that neither format has."""

    def forward(self, matrix):
        return torch.linalg.eigvalsh(matrix)


class OneSample(nn.Module):
    """Fixes the batch: what it computes with is only there once."""

    def forward(self, sample):
        if sample.shape[0] != 1:
            raise ValueError("one at a time")
        return sample * 2


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, stride=2), nn.GELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2)
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1))


def seeded(make) -> nn.Module:
    """Return what a class or function makes, with the same weights each time, and normalization statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model


def floats(*shape: int) -> Array:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def stripes(count: int) -> tuple[Array, Array]:
    """Return images [n, 1, 8, 8] and their classes: which quarter is bright."""
    random = np.random.default_rng(4)
    classes = random.integers(0, 4, count)
    images = random.normal(0, 0.3, (count, 1, 8, 8)).astype(np.float32)
    for image, number in zip(images, classes, strict=True):
        image[0, 2 * number : 2 * number + 2] += 1
    return images, classes
