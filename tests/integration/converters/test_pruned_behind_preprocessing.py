"""A model behind preprocessing is fine-tuned with what the preprocessing makes of raw data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from converters import convert
from converters.conversion.prepared import prepared_arrays
from converters.conversion.workshop import workshop
from converters.data.read import read_columns
from converters.data.settings import DataSettings
from converters.formats.sources import read_source
from converters.processing.settings import ImageSettings, PreprocessSettings
from converters.prune.settings import PruneSettings
from support import processable

SETTINGS = PreprocessSettings(image=ImageSettings(scale=1 / 255, mean=(0.5,), std=(0.25,), channels="gray"))


class Bright(nn.Module):
    """Tells bright pictures from dark ones by sums of what is within -2 to 2; raw pixels saturate it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.first(image.flatten(1) / 4)))


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    classes = np.arange(count) % 2
    pixels = rng.integers(0, 150, (count, 4, 4, 1)) + 100 * classes[:, None, None, None]
    return pixels.astype(np.uint8), classes


@pytest.fixture(scope="session")
def fitted() -> nn.Module:
    pixels, classes = pictures(200)
    taken = torch.from_numpy((pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).float()
    torch.manual_seed(1)
    model = Bright()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(taken), torch.from_numpy(classes)).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("to", ["onnx", "tflite"])
def test_preprocessing_alone_gives_what_the_model_takes(to: str, tmp_path: Path) -> None:
    write = processable.onnx_mirror if to == "onnx" else processable.tflite_mirror
    source = read_source(write(tmp_path / f"mirror.{to}", (1, 4, 4, 1)))
    pixels, classes = pictures(30)
    columns = read_columns(DataSettings(), {"given": pixels, "y": classes})

    with workshop(lambda step, share: None) as shop:
        found, targets = prepared_arrays(shop, columns, {source.engine: source}, SETTINGS)

    assert found.keys() == {"given"}
    np.testing.assert_allclose(found["given"], (pixels / 255 - 0.5) / 0.25, atol=1e-5)
    np.testing.assert_array_equal(targets, classes)


@pytest.mark.slow
def test_pruned_model_takes_raw_pixels_and_stays_right(fitted: nn.Module) -> None:
    package = convert(
        fitted,
        data=pictures(160),
        shapes={"image": (1, 1, 4, 4)},
        to=["onnx"],
        precision=["fp32"],
        preprocess=SETTINGS,
        prune=PruneSettings(final_sparsity=0.5, end_step=60, frequency=10, batch_size=16, learning_rate=0.01),
    )

    (tensor,) = package.manifest.inputs
    assert (tensor.datatype, tensor.shape) == ("UINT8", (-1, -1, -1, 1))
    assert package.report.pruning is not None
    assert package.report.pruning.sparsity == pytest.approx(0.5, abs=0.02)
    (row,) = package.report.rows
    assert row.score is not None
    assert row.score > 0.97
