from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from converters.errors import ConversionError, DataError
from converters.frameworks import torch as framework
from converters.frameworks.base import Pruned, Training
from converters.prune.settings import PruneSettings
from edge_agent.documents.errors import RequestError
from edge_agent.documents.settings import EngineSettings
from edge_agent.engines.onnx import OnnxEngine
from support import torch_models
from support.torch_models import seeded

FEW = PruneSettings(final_sparsity=0.75, end_step=6, frequency=3, steps=9, batch_size=8, learning_rate=0.01)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small only wait for threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pruned(model: nn.Module, settings: PruneSettings = FEW, training: Training | None = None) -> Pruned:
    if training is None:
        images, classes = torch_models.stripes(33)
        training = Training({"image": images}, classes)
    return framework.prune(model, training, settings, lambda share: None)


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


class TestMagnitude:
    def test_reaches_the_sparsity_with_exact_zeros(self) -> None:
        result = pruned(seeded(torch_models.Cnn))

        assert result.layers.keys() == {"conv", "depthwise", "hidden", "head"}
        for name, sparsity in result.layers.items():
            weight = result.model.get_submodule(name).weight
            assert sparsity == (weight == 0).sum().item() / weight.numel()
            assert sparsity == pytest.approx(0.75, abs=0.02)
            assert not torch.signbit(weight[weight == 0]).any()
        assert result.sparsity == pytest.approx(0.75, abs=0.001)

    def test_leaves_plain_parameters_and_the_given_model_alone(self) -> None:
        model = seeded(torch_models.Cnn).eval()
        model.conv.weight.requires_grad_(False)
        before = seeded(torch_models.Cnn)

        result = pruned(model)

        assert equal(model, before)
        assert not model.training
        assert not result.model.training
        assert result.model.state_dict().keys() == before.state_dict().keys()
        assert not result.model.conv.weight.requires_grad
        assert all(parameter.grad is None for parameter in result.model.parameters())

    def test_is_the_same_each_time_and_leaves_the_random_state(self) -> None:
        torch.manual_seed(5)
        first = pruned(seeded(torch_models.Cnn))
        torch.manual_seed(6)
        state = torch.random.get_rng_state()
        second = pruned(seeded(torch_models.Cnn))

        assert equal(first.model, second.model)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_excluded_layers_stay_whole(self) -> None:
        result = pruned(seeded(torch_models.Cnn), replace(FEW, exclude=("h*",)))

        assert result.layers.keys() == {"conv", "depthwise"}
        assert not (result.model.hidden.weight == 0).any()

    def test_learns_while_it_prunes(self) -> None:
        images, classes = torch_models.stripes(200)
        settings = PruneSettings(final_sparsity=0.5, end_step=60, frequency=20, steps=90, learning_rate=0.01)

        result = pruned(seeded(torch_models.Cnn), settings, Training({"image": images}, classes))

        with torch.no_grad():
            got = result.model.eval()(torch.from_numpy(images)).argmax(1).numpy()
        assert (got == classes).mean() > 0.9

    def test_tells_its_progress(self) -> None:
        heard: list[float] = []
        images, classes = torch_models.stripes(33)

        framework.prune(seeded(torch_models.Cnn), Training({"image": images}, classes), FEW, heard.append)

        assert heard == sorted(heard)
        assert heard[-1] == 1
        assert len(heard) == 9

    def test_nothing_to_prune_is_refused(self) -> None:
        with pytest.raises(ConversionError, match="no Linear or convolution weights"):
            pruned(seeded(torch_models.Cnn), replace(FEW, exclude=("*",)))


class TestChannels:
    SETTINGS = replace(FEW, method="channels", final_sparsity=0.5)

    def test_shrinks_the_graph_and_keeps_working(self, tmp_path: Path) -> None:
        model = seeded(torch_models.Cnn)
        images, classes = torch_models.stripes(64)

        result = pruned(model, self.SETTINGS, Training({"image": images}, classes))

        small = result.model
        assert (small.conv.out_channels, small.norm.num_features, small.depthwise.groups) == (4, 4, 4)
        assert small.hidden.weight.shape == (8, 64)
        assert small.head.weight.shape == (4, 8)
        assert result.layers == {"conv": 0.5, "hidden": 0.5}
        assert result.sparsity == 0.5
        assert model.conv.out_channels == 8
        for name, one in (("full", model), ("small", small)):
            framework.export(one, "onnx", tmp_path / name, {"image": images[:2]})
        assert (tmp_path / "small").stat().st_size < 0.8 * (tmp_path / "full").stat().st_size
        engine = OnnxEngine.load(tmp_path / "small", EngineSettings())
        with torch.no_grad():
            want = small.eval()(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(engine.run({"image": images})["output"], want, atol=1e-5)

    def test_keeps_the_channels_that_weigh_most(self) -> None:
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([9.0, 1, 8, 1, 7, 1])[:, None].expand(6, 4))
            model[2].weight.copy_(torch.arange(12.0).reshape(2, 6))
        training = Training({"input": torch_models.floats(8, 4)}, np.zeros(8, np.float32))
        settings = replace(self.SETTINGS, learning_rate=1e-9, end_step=1, frequency=1, steps=2)

        result = pruned(model, settings, Training(training.inputs, np.zeros((8, 2), np.float32)))

        torch.testing.assert_close(result.model[0].weight[:, 0], torch.tensor([9.0, 8, 7]))
        torch.testing.assert_close(
            result.model[2].weight, torch.tensor([[0.0, 2, 4], [6, 8, 10]]), atol=1e-6, rtol=0
        )

    def test_what_feeds_an_addition_or_the_outputs_stays_whole(self) -> None:
        with pytest.raises(ConversionError, match="no layer whose channels can be taken out"):
            pruned(seeded(torch_models.Residual), self.SETTINGS)

    def test_view_with_a_fixed_number_of_features_stays_whole(self) -> None:
        class Fixed(torch_models.Cnn):
            def forward(self, image):
                x = self.pool(torch.relu(self.depthwise(torch.relu(self.norm(self.conv(image))))))
                return self.head(torch.relu(self.hidden(x.view(-1, 128))))

        result = pruned(seeded(Fixed), self.SETTINGS)

        assert result.layers == {"conv": 0.0, "hidden": 0.5}
        assert result.sparsity == pytest.approx(8 / 24)

    def test_inputs_of_a_transposed_convolution_are_no_lost_channels(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3), nn.Flatten())
        training = Training({"input": torch_models.floats(8, 1, 4, 4)}, np.zeros((8, 96), np.float32))

        result = pruned(model, self.SETTINGS, training)

        assert result.model[2].weight.shape[:2] == (4, 6)
        assert result.layers == {"0": 0.5}
        assert result.sparsity == 0.5

    def test_model_with_branches_of_its_own_is_refused(self) -> None:
        class Choosing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(4, 4)

            def forward(self, x):
                return self.layer(x) if x.sum() > 0 else x

        training = Training({"x": torch_models.floats(8, 4)}, np.zeros((8, 4), np.float32))
        with pytest.raises(ConversionError, match=r"torch\.fx cannot trace the model"):
            pruned(Choosing(), self.SETTINGS, training)


class Scaled(nn.Module):
    """Gives logits, what an activation makes of them, or one logit."""

    def __init__(self, activation: nn.Module, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, outputs)
        self.activation = activation

    def forward(self, image):
        return self.activation(self.layer(image.flatten(1)))


class TestLosses:
    @pytest.mark.parametrize(
        ("activation", "outputs"),
        [
            (nn.Identity(), 4),
            (nn.Softmax(1), 4),
            (nn.LogSoftmax(1), 4),
            (nn.Identity(), 1),
            (nn.Sigmoid(), 1),
        ],
        ids=["logits", "softmax", "log-softmax", "one logit", "sigmoid"],
    )
    def test_all_kinds_of_outputs_learn_classes(self, activation, outputs) -> None:
        images, classes = torch_models.stripes(200)
        classes = classes if outputs == 4 else (classes > 1).astype(classes.dtype)
        settings = replace(FEW, final_sparsity=0.2, steps=120, batch_size=32, learning_rate=0.03)

        result = pruned(
            seeded(lambda: Scaled(activation, outputs)), settings, Training({"image": images}, classes)
        )

        with torch.no_grad():
            logits = result.model.layer(torch.from_numpy(images).flatten(1))
        got = logits.argmax(1) if outputs == 4 else (logits[:, 0] > 0).int()
        assert (got.numpy() == classes).mean() > 0.9

    def test_floats_are_learnt_by_their_squares(self) -> None:
        images, _ = torch_models.stripes(200)
        wanted = images.mean((1, 2, 3))
        settings = replace(FEW, final_sparsity=0.0, steps=120, batch_size=32, learning_rate=0.03)
        model = seeded(lambda: Scaled(nn.Identity(), 1))

        result = pruned(model, settings, Training({"image": images}, wanted))

        with torch.no_grad():
            got = result.model(torch.from_numpy(images))[:, 0].numpy()
        assert np.abs(got - wanted).mean() < 0.05

    def test_own_loss_hears_targets_and_outputs(self, tmp_path: Path) -> None:
        (tmp_path / "own_losses.py").write_text(
            "def far(targets, outputs):\n    return ((outputs - 100.0) ** 2).mean() + 0 * targets.sum()\n"
        )
        images, classes = torch_models.stripes(33)
        training = Training({"image": images}, classes, import_from=str(tmp_path))
        settings = replace(FEW, final_sparsity=0.0, loss="own_losses:far", steps=50, learning_rate=0.5)

        result = pruned(seeded(lambda: Scaled(nn.Identity(), 4)), settings, training)

        assert result.model(torch.zeros(1, 1, 8, 8)).min() > 5

    def test_unknown_loss_is_refused(self) -> None:
        with pytest.raises(RequestError, match=r"give auto or package\.module:function"):
            pruned(seeded(torch_models.Cnn), replace(FEW, loss="hinge"))


class TestData:
    @pytest.mark.parametrize(
        ("images", "targets", "said"),
        [
            (torch_models.floats(9, 1, 8, 8), np.arange(9), "class numbers go from 0 to 8"),
            (torch_models.floats(9, 1, 8, 8), np.zeros(9, np.float32), "gives 4 values a sample"),
            (torch_models.floats(9, 1, 8, 8), np.zeros(8, np.int64), "not equally many"),
            (torch_models.floats(9, 3, 8, 8), np.zeros(9, np.int64), "cannot take the data"),
            (torch_models.floats(9, 1, 8, 8), np.array(["a"] * 9), "of datatype <U1"),
        ],
        ids=["classes", "values", "count", "shape", "words"],
    )
    def test_that_does_not_fit_is_refused(self, images, targets, said) -> None:
        with pytest.raises(DataError, match=said):
            pruned(seeded(torch_models.Cnn), training=Training({"image": images}, targets))

    def test_that_lacks_an_input_is_refused(self) -> None:
        with pytest.raises(DataError, match="has no input image"):
            pruned(seeded(torch_models.Cnn), training=Training({"x": torch_models.floats(2, 4)}, np.zeros(2)))

    def test_loss_that_runs_away_is_refused(self) -> None:
        far = torch_models.floats(9, 1, 8, 8) * np.float32(1e30)

        with pytest.raises(ConversionError, match="became infinite or NaN"):
            pruned(
                seeded(lambda: Scaled(nn.Identity(), 1)),
                training=Training({"image": far}, np.zeros(9, np.float32)),
            )
