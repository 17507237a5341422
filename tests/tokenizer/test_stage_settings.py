"""Settings are read, or refused in one line that names the key."""

from __future__ import annotations

from typing import Any

import pytest

from recbole_qbert.common.errors import InputError
from recbole_qbert.tokenizer.quantizers.opq import OPQSettings
from recbole_qbert.tokenizer.quantizers.rqkmeans import RQKMeansSettings
from recbole_qbert.tokenizer.quantizers.rqvae_settings import RQVAESettings
from recbole_qbert.tokenizer.stage_settings import read_quantizer_settings, read_settings

SIZES = {"n_levels": 4, "codebook_size": 256}


def test_defaults_and_what_is_given() -> None:
    assert read_settings(RQVAESettings, "rqvae", SIZES) == RQVAESettings(4, 256)
    given = {
        **SIZES,
        "n_levels": 2,
        "hidden_sizes": [64, 8],
        "beta": 1,
        "restart_dead_codes": False,
    }
    settings = read_settings(RQVAESettings, "rqvae", given)
    assert settings == RQVAESettings(2, 256, hidden_sizes=(64, 8), beta=1, restart_dead_codes=False)
    assert settings.codebook_sizes == (256, 256)


def test_sizes_of_each_level() -> None:
    given = {"n_levels": 3, "codebook_size": [8, 4, 2]}
    assert read_settings(RQKMeansSettings, "rqkmeans", given).codebook_sizes == (8, 4, 2)


def test_epochs_follow_the_number_of_items() -> None:
    settings = RQVAESettings(4, 256, epochs=500, max_steps=4000, batch_size=1024)
    assert settings.n_epochs(1_585) == 500  # two steps each
    assert settings.n_epochs(13_839) == 286  # 14 steps each
    assert settings.n_epochs(1_000_000) == 5  # 977 steps each
    assert settings.n_epochs(100_000_000) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epohcs": 3}, "rqvae.epohcs: unknown setting; did you mean 'epochs'"),
        ({"epochs": 0}, "rqvae.epochs: 0 is less than 1"),
        ({"epochs": 2.5}, "rqvae.epochs: 2.5 is not a whole number"),
        ({"epochs": True}, "rqvae.epochs: True is not a whole number"),
        ({"beta": "much"}, "rqvae.beta: 'much' is not a number"),
        ({"beta": float("nan")}, "rqvae.beta: nan is less than 0"),
        ({"ema_decay": 1.5}, "rqvae.ema_decay: 1.5 is more than 1"),
        ({"gradient": "rotate"}, "'rotate' is none of ste, rotation; did you mean 'rotation'"),
        ({"restart_dead_codes": 1}, "rqvae.restart_dead_codes: 1 is not True or False"),
        ({"hidden_sizes": [64, 0]}, "rqvae.hidden_sizes: 0 is less than 1"),
        ({"epochs": [1, 2]}, r"rqvae.epochs: \[1, 2\] is a list; give one value"),
        ({"hidden_sizes": 64}, "rqvae.hidden_sizes: 64 is one value; give a list"),
        ({"codebook_size": [8, 8]}, r"rqvae.codebook_size: \[8, 8\] gives 2 sizes for 4 levels"),
    ],
)
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        read_quantizer_settings(RQVAESettings, "rqvae", {**SIZES, **given})
    assert "\n" not in str(refusal.value)


def test_a_setting_of_another_method_is_unknown() -> None:
    with pytest.raises(InputError, match="opq.beta: unknown setting"):
        read_settings(OPQSettings, "opq", {**SIZES, "beta": 0.25})
