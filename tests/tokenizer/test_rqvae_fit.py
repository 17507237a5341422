"""RQVAETraining: start, restarts, choice of the epoch, resume, collapse."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_qbert.common import progress
from recbole_qbert.common.errors import InputError
from recbole_qbert.tokenizer.quantizers import rqvae_fit
from recbole_qbert.tokenizer.quantizers.registry import fit_quantizer
from recbole_qbert.tokenizer.quantizers.rqvae import RQVAEQuantizer, RQVAESettings
from recbole_qbert.tokenizer.quantizers.rqvae_fit import (
    RQVAETraining,
    check_collapse,
    fit_rqvae,
)
from recbole_qbert.training.resume import FitState

SMALL = RQVAESettings(
    n_levels=3, codebook_size=8, hidden_sizes=[16], code_size=4, epochs=8, batch_size=64
)


def _settings(**changes: Any) -> RQVAESettings:
    return SMALL.model_copy(update=changes)


def _vectors(n: int = 300, dimension: int = 12) -> np.ndarray:
    """Eight clusters one after another, so that a first batch would show only some of them."""
    rng = np.random.default_rng(5)
    centers = 4 * rng.normal(size=(8, dimension))
    return (np.repeat(centers, -(-n // 8), axis=0)[:n] + rng.normal(size=(n, dimension))).astype(
        np.float32
    )


def _bytes(quantizer: RQVAEQuantizer) -> list[bytes]:
    return [value.numpy().tobytes() for value in quantizer.state()["weights"].values()]


def _used(training: RQVAETraining, level: int) -> int:
    codes = RQVAEQuantizer(training.network).encode(training.vectors)
    return len(np.unique(codes[:, level]))


def test_k_means_start_covers_the_whole_catalog() -> None:
    training = RQVAETraining(_vectors(), SMALL, seed=1)
    training.start_codebooks()
    assert [_used(training, level) for level in range(3)] == [8, 8, 8]
    # Each codeword of level 0 is the mean latent of those that choose it.
    quantizer = RQVAEQuantizer(training.network)
    latents, codes = quantizer.latents(_vectors()), quantizer.encode(_vectors())[:, 0]
    for code in range(8):
        mean = latents[codes == code].mean(axis=0)
        np.testing.assert_allclose(quantizer.codebooks[0][code], mean, atol=1e-4)


def test_fewer_items_than_codes() -> None:
    vectors = _vectors(5)
    fitted = fit_rqvae(vectors, _settings(codebook_size=16), seed=1)
    assert fitted.codebook_sizes == (16, 16, 16)
    assert fitted.report(vectors)["collisions"] == 0


def test_standardized_inputs() -> None:
    vectors = _vectors()
    vectors[:, 3] = 0.1  # constant; float32 sums would leave a tiny deviation
    vectors[:, 5] = 1e4 + 1e3 * vectors[:, 5]
    network = RQVAETraining(vectors, SMALL, seed=1).network
    standardized = network.standardize(torch.from_numpy(vectors)).double()
    np.testing.assert_allclose(standardized.mean(dim=0), 0, atol=1e-4)
    deviations = standardized.std(dim=0, correction=0)
    assert deviations[3] < 1e-6
    np.testing.assert_allclose(np.delete(deviations.numpy(), 3), 1, rtol=1e-3)
    plain = RQVAETraining(vectors, _settings(standardize="none"), seed=1).network
    assert torch.equal(plain.standardize(torch.from_numpy(vectors)), torch.from_numpy(vectors))


def test_training_lowers_the_error() -> None:
    vectors = _vectors()
    errors = []
    for epochs in (1, 20):
        fitted = fit_rqvae(vectors, _settings(epochs=epochs, learning_rate=0.01), seed=1)
        errors.append(fitted.report(vectors)["levels"][-1]["relative_error"])
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient": "rotation"},
        {"codebook_update": "ema", "ema_decay": 0.9},
        {"sinkhorn_epsilon": 0.01},
        {"norm": "sum", "rq_reduce": "mean", "standardize": "none"},
        {"codebook_size": [8, 4, 16]},
    ],
)
def test_every_choice_trains(changes: dict[str, Any]) -> None:
    vectors = _vectors()
    settings = _settings(learning_rate=0.01, **changes)
    first, last = (
        fit_rqvae(vectors, settings.model_copy(update={"epochs": epochs}), seed=1).report(vectors)
        for epochs in (1, 20)
    )
    assert last["levels"][-1]["relative_error"] < 0.7 * first["levels"][-1]["relative_error"]
    assert all(level["usage"] > 0.7 for level in last["levels"])


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_restarts_raise_usage(update: str) -> None:
    used = {}
    for restart in (False, True):
        settings = _settings(codebook_update=update, restart_dead_codes=restart, epochs=40)
        training = RQVAETraining(_vectors(), settings, seed=1)
        training.start_codebooks()
        with torch.no_grad():
            training.network.codebooks[1][1:] = 100.0  # far from every residual
        training._start_moving()
        for _ in range(6):
            training.train_epoch()
        used[restart] = _used(training, 1)
    assert used[False] == 1
    assert used[True] >= 6


def test_restarts_stop_before_the_epochs_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    restarted, looked = [], []
    monkeypatch.setattr(
        RQVAETraining, "_restart", lambda self, dead: restarted.append(self.epoch), raising=True
    )
    evaluate = RQVAETraining._evaluate

    def spy(self: RQVAETraining, settled: bool) -> None:
        evaluate(self, settled)
        looked.append((self.epoch, settled))

    monkeypatch.setattr(RQVAETraining, "_evaluate", spy)
    fit_rqvae(_vectors(), _settings(epochs=8, settle_share=0.5), seed=1)
    assert restarted == [1, 2, 3, 4]
    assert looked == [(epoch, epoch >= 5) for epoch in range(1, 9)]


def test_the_best_settled_epoch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    evaluate = RQVAETraining._evaluate

    def spy(self: RQVAETraining, settled: bool) -> None:
        evaluate(self, settled)
        if settled:
            seen.append(((self.latest["collisions"], self.latest["error"]), self.epoch))

    monkeypatch.setattr(RQVAETraining, "_evaluate", spy)
    vectors = _vectors()
    fitted = fit_rqvae(vectors, _settings(epochs=16, settle_share=0.75), seed=3)
    (collisions, error), _ = min(seen)
    assert len(seen) == 12
    assert fitted.report(vectors)["collisions"] == collisions
    (kept,) = fitted.squared_errors(vectors, fitted.encode(vectors), [3])
    assert kept == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("update", ["gradient", "ema"])
@pytest.mark.parametrize("killed_in", [1, 4, 7])
def test_a_killed_fit_ends_like_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: str, killed_in: int
) -> None:
    settings = _settings(codebook_update=update, settle_share=0.5)
    wanted = _bytes(fit_rqvae(_vectors(), settings, seed=1))
    monkeypatch.setattr(rqvae_fit, "FitState", functools.partial(FitState, interval_s=0.0))
    epoch = RQVAETraining.train_epoch
    trained: list[int] = []

    def interrupted(self: RQVAETraining) -> float:
        if self.epoch == killed_in and killed_in not in trained:
            trained.append(killed_in)
            raise KeyboardInterrupt
        trained.append(self.epoch)
        return epoch(self)

    monkeypatch.setattr(RQVAETraining, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_rqvae(_vectors(), settings, 1, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    again = fit_rqvae(_vectors(), settings, 1, tmp_path)
    assert trained == [*range(killed_in), killed_in, *range(killed_in, 8)]
    assert _bytes(again) == wanted


@pytest.mark.parametrize("change", ["settings", "seed", "vectors"])
def test_another_fits_state_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(rqvae_fit, "FitState", functools.partial(FitState, interval_s=0.0))
    with monkeypatch.context() as patch:
        patch.setattr(RQVAETraining, "best_quantizer", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit_rqvae(_vectors(), SMALL, 1, tmp_path)
    settings = _settings(beta=0.5) if change == "settings" else SMALL
    seed = 2 if change == "seed" else 1
    vectors = _vectors() + np.float32(change == "vectors")
    fitted = fit_rqvae(vectors, settings, seed, tmp_path)
    assert _bytes(fitted) == _bytes(fit_rqvae(vectors, settings, seed))


def test_a_finished_state_is_taken_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rqvae_fit, "FitState", functools.partial(FitState, interval_s=0.0))
    with monkeypatch.context() as patch:
        patch.setattr(RQVAETraining, "best_quantizer", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit_rqvae(_vectors(), SMALL, 1, tmp_path)
    monkeypatch.setattr(RQVAETraining, "train_epoch", lambda self: 1 / 0)
    shuffled = _vectors()[::-1].copy()  # the same set of vectors
    assert fit_rqvae(shuffled, SMALL, 1, tmp_path).method == "rqvae"


@pytest.mark.filterwarnings("ignore")  # of all the overflows on the way
def test_a_loss_that_is_not_finite_is_one_line() -> None:
    with pytest.raises(InputError, match="not finite in epoch 1 of 8; decrease rqvae"):
        fit_rqvae(_vectors() * 1e25, _settings(standardize="none"), seed=1)


def test_a_collapse_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # Codebooks that stay at zero: every item has the codes (0, 0, 0).
    monkeypatch.setattr(RQVAETraining, "start_codebooks", lambda self: None)
    settings = {
        **{"n_levels": 3, "codebook_size": 8, "hidden_sizes": [16], "code_size": 4, "epochs": 2},
        **{"restart_dead_codes": False, "learning_rate": 1e-9},
    }
    with pytest.raises(InputError) as refusal:
        fit_quantizer(_vectors(), "rqvae", settings, seed=1)
    assert str(refusal.value).startswith(
        "rqvae: level b collapsed: 1 of 8 codes are used, perplexity 1.0; decrease"
    )


def test_what_counts_as_collapse() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (10_000, 3))
    check_collapse(codes, (256, 256, 256), 10_000)
    few = codes.copy()
    few[:, 2] %= 2  # two of the 39 codes that could be told apart: just enough
    check_collapse(few, (256, 256, 256), 10_000)
    few[:, 2] = 7
    with pytest.raises(InputError, match="level c collapsed: 1 of 256"):
        check_collapse(few, (256, 256, 256), 10_000)
    # With 100,000 items all 256 could be used, and 12 are too few.
    few[:, 2] = codes[:, 2] % 12
    with pytest.raises(InputError, match="12 of 256"):
        check_collapse(few, (256, 256, 256), 100_000)
    # The first level may be poor, and later levels may idle where it tells all items apart.
    few = codes.copy()
    few[:, 0] = 0
    check_collapse(few, (256, 256, 256), 10_000)
    check_collapse(np.stack([np.arange(200), np.zeros(200, int)], axis=1), (256, 256), 200)


def test_the_bar_shows_when_asked(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_A_LINE", 0.0)
    fit_rqvae(_vectors(), _settings(epochs=2), seed=1)
    assert capfd.readouterr().err == ""
    fit_rqvae(_vectors(), _settings(epochs=2), seed=1, show_progress=True)
    assert "rqvae: 2/2 epoch" in capfd.readouterr().err
