"""Averaged predictions depend on the image alone, and are the mean over stains and positions that they say they are."""

import torch

from studies import rows
from wbc_client.evaluation.stain_averaging import _placed, _version, predict_averaged
from wbc_client.features import all_features, predict
from wbc_common.models import Network, build_model
from wbc_common.study import ModelSettings

CPU = torch.device("cpu")


def model() -> Network:
    return build_model(ModelSettings(), rows(5), seed=0)


def pixels(number: int) -> torch.Tensor:
    return torch.randint(30, 220, (number, 3, 24, 24), generator=torch.Generator().manual_seed(1)).byte()


def test_without_draws_the_logits_are_the_models_own() -> None:
    logits, features = predict_averaged(model(), pixels(3), CPU, draws=0)
    torch.testing.assert_close(logits, predict(model(), pixels(3), CPU))
    torch.testing.assert_close(features, all_features(model(), pixels(3), CPU))


def test_probabilities_are_averaged_and_sum_to_one() -> None:
    found = predict_averaged(model(), pixels(3), CPU, draws=7)[0].exp()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(3))
    assert not torch.allclose(found, predict(model(), pixels(3), CPU).softmax(dim=1), atol=1e-6)


def test_features_are_the_mean_of_those_of_the_image_and_its_versions() -> None:
    seen = [all_features(model(), _version(pixels(3), number, CPU), CPU) for number in (1, 2)]
    expected = torch.stack([all_features(model(), pixels(3), CPU), *seen]).mean(dim=0)
    torch.testing.assert_close(predict_averaged(model(), pixels(3), CPU, draws=2)[1], expected)


def test_probabilities_and_features_do_not_depend_on_the_images_beside_it() -> None:
    together = predict_averaged(model(), pixels(300), CPU, draws=2)
    for place in (0, 299):
        alone = predict_averaged(model(), pixels(300)[place : place + 1], CPU, draws=2)
        for beside_others, by_itself in zip(together, alone, strict=True):
            torch.testing.assert_close(beside_others[place : place + 1], by_itself, atol=1e-5, rtol=1e-5)


def test_all_eight_positions_are_taken_and_none_twice() -> None:
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    positions = {tuple(_placed(image, number).flatten().tolist()) for number in range(8)}
    assert len(positions) == 8
    assert {tuple(sorted(position)) for position in positions} == {tuple(range(16))}


def test_no_image_gives_no_prediction() -> None:
    logits, features = predict_averaged(model(), pixels(3)[:0], CPU, draws=7)
    assert (logits.shape, features.shape) == ((0, 5), (0, model().head.in_features))
