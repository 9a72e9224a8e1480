import copy

import numpy as np
import pytest
import torch

from athanor.base.errors import UserError
from athanor.data import preprocess
from athanor.data.preprocess import PCA, ZCA, MeanImage, Preprocess, Standardize, Symmetric

SHAPE = (3, 4, 5)
INDEX = torch.arange(0, 1000, 2)
FITTED = {
    "standardize": lambda: Standardize(SHAPE),
    "mean_image": lambda: MeanImage(SHAPE),
    "pca": lambda: PCA(SHAPE, variance=0.9),
    "zca": lambda: ZCA(SHAPE, eps=0.01),
}
EVERY = {**FITTED, "none": lambda: Preprocess(SHAPE), "symmetric": lambda: Symmetric(SHAPE)}

every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
every_fitted = pytest.mark.parametrize("make", FITTED.values(), ids=FITTED)


@pytest.fixture
def images():
    """Noise whose pixels are correlated and have different means and spreads."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(1000, 60, generator=generator) @ torch.randn(60, 60, generator=generator)
    spread = torch.linspace(1, 5, 60)
    return (128 + spread * mixed + 3 * spread).clamp(0, 255).byte().view(-1, *SHAPE)


def fitted(make, images, index=INDEX):
    module = make()
    module.fit(images, index)
    return module


def scaled(images):
    """The fitted images as numpy rows in [0, 1]."""
    return images[INDEX].flatten(1).double().numpy() / 255


def test_standardize_gives_each_channel_mean_0_and_deviation_1_on_the_fitted_images(images):
    out = fitted(FITTED["standardize"], images)(images[INDEX]).double()
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    assert (out.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_a_constant_channel_becomes_0(images):
    images[:, 1] = 77
    out = fitted(FITTED["standardize"], images)(images)
    assert (out[:, 1] == 0).all()
    assert out.isfinite().all()


@every_fitted
def test_the_statistics_are_of_the_index_alone(make, images):
    expected = fitted(make, images).state_dict()
    changed = images.clone()
    changed[1::2] = 255 - changed[1::2]
    for name, value in fitted(make, changed).state_dict().items():
        assert torch.equal(value, expected[name])
    changed[0] = 255 - changed[0]
    assert not torch.equal(fitted(make, changed).mean, expected["mean"])


@every_fitted
def test_fitting_in_chunks_equals_fitting_at_once(make, images, monkeypatch):
    expected = fitted(make, images)(images[:10])
    monkeypatch.setattr(preprocess, "CHUNK", 7)
    torch.testing.assert_close(fitted(make, images)(images[:10]), expected, rtol=0, atol=1e-5)


def test_mean_image_subtracts_each_pixels_mean(images):
    expected = (images.double() - images[INDEX].double().mean(0)) / 255
    out = fitted(FITTED["mean_image"], images)(images)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-6)
    assert out[INDEX].mean(0).abs().max() < 1e-5


@pytest.mark.parametrize("make, low, high", [(Preprocess, 0, 1), (Symmetric, -1, 1)])
def test_what_is_not_fitted_maps_the_pixels_to_its_range(make, low, high):
    out = make((1, 16, 16))(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    torch.testing.assert_close(out.flatten(), torch.linspace(low, high, 256))
    assert (out.min(), out.max()) == (low, high)


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99])
def test_pca_keeps_the_fewest_components_that_hold_the_asked_variance(images, variance):
    rows = scaled(images)
    centred = rows - rows.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    shares = np.cumsum(singular**2) / np.sum(singular**2)
    kept = directions[: np.searchsorted(shares, variance) + 1]
    assert shares[len(kept) - 1] >= variance > (shares[len(kept) - 2] if len(kept) > 1 else 0)
    out = fitted(lambda: PCA(SHAPE, variance), images)(images[INDEX]).flatten(1).double().numpy()
    np.testing.assert_allclose(out, centred @ kept.T @ kept, atol=1e-5)
    assert np.sum(out**2) / np.sum(centred**2) == pytest.approx(shares[len(kept) - 1], abs=1e-5)


def test_pca_of_all_the_variance_only_centres(images):
    out = fitted(lambda: PCA(SHAPE, 1.0), images)(images)
    expected = fitted(FITTED["mean_image"], images)(images)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_zca_with_tiny_eps_gives_the_identity_as_covariance(images):
    out = fitted(lambda: ZCA(SHAPE, 1e-9), images)(images[INDEX]).flatten(1).double()
    torch.testing.assert_close(out.T.cov(correction=0), torch.eye(60).double(), rtol=0, atol=1e-3)


def test_zca_equals_its_formula(images):
    rows, eps = scaled(images), 0.01
    covariance = np.cov(rows, rowvar=False, bias=True)
    directions, variances, _ = np.linalg.svd(covariance)
    expected = (rows - rows.mean(0)) @ directions @ np.diag(1 / np.sqrt(variances + eps)) @ directions.T
    out = fitted(lambda: ZCA(SHAPE, eps), images)(images[INDEX]).flatten(1).double().numpy()
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_zca_keeps_pixels_that_never_change_at_0(images):
    images[:, :, 0] = 9
    out = fitted(FITTED["zca"], images)(images)
    assert out.isfinite().all()
    assert out[:, :, 0].abs().max() < 1e-4


@every
@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.double()])
def test_it_stays_float32_in_every_precision(make, cast, images):
    module = fitted(make, images)
    expected = module(images[:10])
    moved = cast(copy.deepcopy(module))
    assert {buffer.dtype for buffer in moved.buffers()} <= {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        out = moved(images[:10])
    assert out.dtype == torch.float32
    assert out.shape == (10, *SHAPE)
    assert torch.equal(out, expected)


@every_fitted
def test_it_follows_its_owner_to_another_device(make, images):
    owner = torch.nn.Sequential(fitted(make, images)).to("meta", torch.bfloat16)
    assert {(buffer.device.type, buffer.dtype) for buffer in owner.buffers()} == {("meta", torch.float32)}


@every
def test_a_saved_state_gives_the_same_again(make, images, tmp_path):
    module = fitted(make, images)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    fresh = make()
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(fresh(images), module(images))


@every
def test_the_images_that_come_in_are_untouched(make, images):
    before, module = images.clone(), fitted(make, images)
    module(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PCA(SHAPE, 0.0), r"data\.preprocess\.variance=0\.0 is not in \(0, 1\]"),
        (lambda: PCA(SHAPE, 1.5), r"data\.preprocess\.variance=1\.5 is not in \(0, 1\]"),
        (lambda: ZCA(SHAPE, 0.0), r"data\.preprocess\.eps=0\.0 must be positive"),
    ],
)
def test_wrong_knobs_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


OF_SHAPE = {
    "none": Preprocess,
    "standardize": Standardize,
    "mean_image": MeanImage,
    "pca": lambda shape: PCA(shape, 0.99),
    "zca": lambda shape: ZCA(shape, 0.01),
}


@pytest.fixture
def vectors():
    """Features of very different size, of which two are constant."""
    values = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    values = values * torch.tensor([1.0, 1e-3, 0, 0]) + torch.tensor([1e3, 0, 0.1, -7e5])
    return values, torch.arange(0, 300, 2)


def test_vectors_are_standardised_by_feature_and_constant_ones_become_zero(vectors):
    values, index = vectors
    module = Standardize((4,))
    before = values.clone()
    module.fit(values, index)
    out = module(values[index])
    assert torch.equal(values, before)  # a batch may be the data itself
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=2e-4, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.tensor([1.0, 1, 0, 0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", OF_SHAPE)
def test_floats_are_not_divided_and_words_of_16_bits_are_like_bytes(name, vectors):
    values, index = vectors
    if name == "none":
        assert torch.equal(OF_SHAPE[name]((4,))(values), values)
    images = torch.randint(0, 256, (60, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    outs = {}
    for dtype, factor in (torch.uint8, 1), (torch.uint16, 257), (torch.float32, 1 / 255):
        module = OF_SHAPE[name]((1, 3, 3))
        inputs = (images * factor).to(dtype)
        module.fit(inputs, torch.arange(40))
        outs[dtype] = module(inputs)
        assert outs[dtype].dtype == torch.float32
    torch.testing.assert_close(outs[torch.uint16], outs[torch.uint8], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outs[torch.float32], outs[torch.uint8], atol=1e-4, rtol=1e-4)
    OF_SHAPE[name]((4,)).fit(values, index)


@pytest.mark.parametrize("name", OF_SHAPE)
def test_indices_stay_as_they_are_or_are_refused(name):
    tokens = torch.arange(12).view(3, 4)
    module = OF_SHAPE[name]((4,))
    if name in ("none", "standardize"):
        module.fit(tokens, torch.arange(3))
        assert module(tokens) is tokens
    else:
        with pytest.raises(UserError, match="int64, indices of which nothing can be computed"):
            module.fit(tokens, torch.arange(3))


def test_what_has_no_least_and_greatest_value_is_not_scaled_to_them():
    module = Symmetric((1, 1, 2))
    assert module(torch.tensor([[[[0, 65535]]]], dtype=torch.uint16)).flatten().tolist() == [-1, 1]
    with pytest.raises(UserError, match=r"scales pixels, uint8 or uint16, and the inputs are float32 \[2, 3\]"):
        module.fit(torch.zeros(2, 3), torch.arange(2))
