"""The normaliser of NCE: estimated once, kept, and carried by a checkpoint."""

import pytest
import torch

from metaug_ray.method.contrast import NoiseContrastiveEstimation, nce, nce_log_normalizer
from tests.method.contrast.formulas import similarities


def test_nce_normalizer_is_the_mean_of_the_minibatch() -> None:
    positives, negatives = similarities()
    everything = torch.cat([positives[..., None], negatives], -1)
    expected = ((2 * everything - 1) / 0.07).exp().transpose(0, 1).flatten(1).mean(1).log()
    torch.testing.assert_close(nce_log_normalizer(positives, negatives, temperature=0.07), expected)


def test_nce_keeps_its_first_normalizer_and_a_checkpoint_keeps_it_too() -> None:
    first, second = similarities(seed=0), similarities(seed=1)
    contrast = NoiseContrastiveEstimation(2, temperature=0.5)
    contrast(*first)
    normalizer = nce_log_normalizer(*first, temperature=0.5)
    expected = nce(*second, temperature=0.5, log_normalizer=normalizer)
    assert contrast(*second) == expected
    resumed = NoiseContrastiveEstimation(2, temperature=0.5)
    resumed.load_state_dict(contrast.state_dict())
    assert resumed(*second) == expected
    # Original and augmented pairs together: each pair's normaliser serves both.
    both = torch.cat([first[0], second[0]], 1), torch.cat([first[1], second[1]], 1)
    torch.testing.assert_close(contrast(*both), contrast(*first) + contrast(*second))
    # A load is looked at anew: an untrained state is estimated again.
    contrast.load_state_dict(NoiseContrastiveEstimation(2, temperature=0.5).state_dict())
    assert contrast(*first) == nce(*first, temperature=0.5, log_normalizer=normalizer)
    with pytest.raises(ValueError, match="2 pairs are no multiple of the 6 that NCE was built for"):
        NoiseContrastiveEstimation(6)(*first)
