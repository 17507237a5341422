"""Stream `bbq`: its loss by hand, no leaks, repeatable, resumable, new items."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from toy_domain import N_ITEMS, histories, item_names, small, write_domain, write_inter

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.tokenizer.artifact import Tokenizer
from recbole_qbert.tokenizer.fusion import bbq_fit
from recbole_qbert.tokenizer.fusion.bbq import BBQSettings, BehaviorBinding, SegmentNorm, club
from recbole_qbert.tokenizer.fusion.sequences import TrainingSequences
from recbole_qbert.tokenizer.new_items import encode_new_items
from recbole_qbert.tokenizer.pipeline import tokenize
from recbole_qbert.tokenizer.quantizers.registry import load_quantizer
from recbole_qbert.tokenizer.quantizers.shared import SharedResidual
from recbole_qbert.tokenizer.report import report_lines

TINY: dict[str, Any] = {
    "streams": ["bbq"],
    "bbq__hidden_sizes": "[16]",
    "bbq__code_size": 8,
    "bbq__epochs": 4,
    "bbq__batch_size": 16,
    "bbq__users_per_step": 8,
}


def _tokenized(folder: Path, shuffle: int | None = None, **changes: Any) -> Tokenizer:
    domain = write_domain(folder, shuffle=shuffle)
    tokenizer = tokenize([domain], folder / "tokenizer", small(**TINY | changes))
    assert tokenizer is not None
    return tokenizer


def _ids(folder: Path) -> bytes:
    return DatasetPaths("toy", folder / "toy").file("semid").read_bytes()


# The loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_club_of_correlated_gaussians(rho: float) -> None:
    """With the true q = N(rho z, 1 - rho^2), CLUB is rho^2 / (1 - rho^2) by hand.

    The squared distance to rho z is 1 - rho^2 for own and 1 + rho^2 for other values on average.
    The mutual information -log(1 - rho^2) / 2 lies below.
    """
    chance = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 400_000, 1, generator=chance, dtype=torch.float64)
    s = rho * z + (1 - rho**2) ** 0.5 * noise
    log_variance = torch.full_like(z, math.log(1 - rho**2))
    expected = rho**2 / (1 - rho**2)
    assert float(club(s, rho * z, log_variance)) == pytest.approx(expected, rel=0.02, abs=1e-2)
    assert expected >= -math.log(1 - rho**2) / 2


def test_club_is_the_mean_over_all_pairs() -> None:
    """Two items and all four log-likelihoods; then many, by the definition."""
    values, mean = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]])
    # log q up to its constant, variance 1: own 0 and -1/2; all 0, -2, -1/2, -1/2.
    assert float(club(values, mean, torch.zeros(2, 1))) == pytest.approx(-0.25 + 0.75)
    values, mean, log_variance = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1))
    pairs = -((values[None] - mean[:, None]).square() / log_variance.exp()[:, None]) / 2
    by_pairs = pairs.sum(dim=2) - log_variance.sum(dim=1, keepdim=True) / 2
    expected = by_pairs.diagonal().mean() - by_pairs.mean()
    assert torch.allclose(club(values, mean, log_variance), expected, atol=1e-5)


def _model(**changes: Any) -> BehaviorBinding:
    given = {"hidden_sizes": [6], "code_size": 4, **changes}
    torch.manual_seed(0)
    model = BehaviorBinding(9, {"text": 5, "image": 3}, [3, 2], BBQSettings(**given))
    with torch.no_grad():
        for book in model.codebooks:
            book.normal_()
    return model


def _inputs(n: int = 9) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    there = torch.ones(n, dtype=torch.bool)
    lacking = there.clone()
    lacking[2] = False
    return {"text": (torch.randn(n, 5), there), "image": (torch.randn(n, 3), lacking)}


def test_codes_are_shared_and_gradients_reach_latents_and_codewords() -> None:
    model = _model()
    latents = torch.randn(4, 4, requires_grad=True)
    found = model.quantize(latents)
    first = model.codebooks[0][found.codes[:, 0]]
    assert torch.equal(found.vectors, first + model.codebooks[1][found.codes[:, 1]])
    nearest = torch.cdist(latents, model.codebooks[0]).argmin(dim=1)
    assert torch.equal(found.codes[:, 0], nearest)
    gradients = torch.autograd.grad(found.vectors.sum(), [latents, *model.codebooks])
    assert torch.equal(gradients[0], torch.ones(4, 4))
    for level, gradient in enumerate(gradients[1:]):
        counts = torch.bincount(found.codes[:, level], minlength=len(gradient))
        assert torch.equal(gradient, counts[:, None].expand(-1, 4).float())


def test_contrast_by_hand() -> None:
    """Histories 0 1 2 and 1 3: three targets among the four items, not the padding."""
    model = _model(temperature=0.5)
    items = torch.randn(9, 4)
    sequences, lengths = torch.tensor([[5, 6, 7], [6, 8, 8]]), torch.tensor([3, 2])
    losses = []
    for prefix, target in (([5], 6), ([5, 6], 7), ([6], 8)):
        state = model.reader(items[prefix].unsqueeze(0))[1][0, 0]
        cosines = F.cosine_similarity(state.unsqueeze(0), items[5:9])
        losses.append(F.cross_entropy(cosines / 0.5, torch.tensor(target - 5)))
    expected = torch.stack(losses).mean()
    assert torch.allclose(model.contrast(items, sequences, lengths), expected, atol=1e-6)


def test_a_missing_modality_counts_nowhere() -> None:
    """Its vector may be anything: no term and no code changes."""
    model = _model()
    found = []
    for value in (0.0, 100.0):
        inputs = _inputs()
        inputs["image"][0][2] = value
        latents = model.encode(inputs)
        sequences, lengths = torch.tensor([[0, 2, 4]]), torch.tensor([3])
        terms, codes = model.loss(latents, inputs, torch.arange(9), sequences, lengths)
        assert len(codes) == 9 + 8 + 9
        found.append(({**terms, "surprise": model.surprise(latents, inputs)}, codes))
    (terms, codes), (others, other_codes) = found
    assert torch.equal(codes, other_codes)
    for name, value in terms.items():
        assert torch.equal(value, others[name]), name


def test_every_part_of_the_loss_trains_what_it_should() -> None:
    model, inputs = _model(), _inputs()
    latents = model.encode(inputs)
    sequences, lengths = torch.tensor([[0, 3, 4], [1, 5, 5]]), torch.tensor([3, 2])
    terms, _ = model.loss(latents, inputs, torch.arange(9), sequences, lengths)
    parts = {
        "club-text": ({"behavior", "specific", "gaussians"}, {"codebooks", "identity"}),
        "contrast": ({"behavior", "identity", "codebooks", "reader"}, {"specific", "gaussians"}),
        "reconstruction-image": ({"behavior", "specific", "decoders"}, {"identity", "reader"}),
        "quantization": ({"behavior", "identity", "codebooks"}, {"specific", "decoders"}),
    }
    for term, (reached, others) in parts.items():
        model.zero_grad(set_to_none=True)
        terms[term].backward(retain_graph=True)
        got = {
            name.partition(".")[0]
            for name, each in model.named_parameters()
            if each.grad is not None and each.grad.any()
        }
        assert reached <= got and not others & got, (term, got)
    model.zero_grad(set_to_none=True)
    model.surprise(latents, inputs).backward()
    got = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert got == {"gaussians"}


def test_moments_of_a_segment() -> None:
    """In training those of the step's items that exist, of which a tenth is kept; else the kept."""
    norm, present = SegmentNorm(2), torch.tensor([True, True, False])
    latents = torch.tensor([[1.0, 0.0], [3.0, 4.0], [50.0, 50.0]])
    found = norm(latents, present)
    assert torch.allclose(found[:2], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), atol=1e-4)
    assert torch.allclose(norm.mean, torch.tensor([0.2, 0.2]))
    assert torch.allclose(norm.variance, torch.tensor([1.0, 1.3]))
    norm.settle(latents[:2])
    assert torch.allclose(norm.eval()(latents, ~present)[:2], found[:2])
    one = norm.train()(latents, ~present)  # of one item alone nothing can be said
    assert torch.allclose(one[:2], found[:2])


def test_a_decoder_without_the_specific_latent() -> None:
    """Where `kept` is False, it is as if the latent were zero; CLUB and the rest stay."""
    model, inputs = _model().eval(), _inputs()
    latents = model.encode(inputs)
    sequences, lengths = torch.tensor([[0, 2, 4]]), torch.tensor([3])
    kept = torch.tensor([[row % 2 == 0, True] for row in range(9)])
    given = (inputs, torch.arange(9), sequences, lengths)
    terms, _ = model.loss(latents, *given, kept)
    plain, _ = model.loss(latents, *given)
    without = latents.specific["text"] * kept[:, :1]
    zeros = latents._replace(specific={**latents.specific, "text": without})
    expected, _ = model.loss(zeros, *given)
    text = "reconstruction-text"
    torch.testing.assert_close(terms[text], expected[text])
    assert not torch.allclose(terms[text], plain[text])
    for name in plain.keys() - {text}:
        torch.testing.assert_close(terms[name], plain[name])


# Training histories ------------------------------------------------------------------------------


def test_windows_lie_within_one_training_history() -> None:
    names = [f"i{number}" for number in range(30)]
    lengths = {"b": 12, "a": 5, "alone": 1, "c": 2}
    numbers = iter(range(30))
    rows = [(user, f"i{next(numbers)}") for user, n in lengths.items() for _ in range(n)]
    pairs = pd.DataFrame(rows, columns=["user_id", "item_id"])
    sequences = TrainingSequences.of(pairs, names)
    assert sequences.lengths.tolist() == [5, 12, 2]  # in the order of the users' names
    assert sequences.items.tolist() == [*range(12, 17), *range(12), 18, 19]
    drawn, found = sequences.draw(500, 4, torch.Generator().manual_seed(0))
    assert drawn.shape == (500, 4)
    seen = {tuple(row[:n]) for row, n in zip(drawn.tolist(), found.tolist(), strict=True)}
    windows = {tuple(range(start, start + 4)) for start in (*range(9), 12, 13)} | {(18, 19)}
    assert seen == windows


def test_held_out_interactions_never_reach_the_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the histories that the contrast sees; one changed training item does."""
    seen: list[list[int]] = []
    original = bbq_fit.fit_binder

    def recorded(modalities: Any, sequences: TrainingSequences, *args: Any, **more: Any) -> Any:
        seen.append(sequences.items.tolist())
        return original(modalities, sequences, *args, **more)

    monkeypatch.setattr("recbole_qbert.tokenizer.pipeline.fit_binder", recorded)
    rng, names = np.random.default_rng(0), item_names("toy")
    held = [
        [*items[:-2], *(names[row] for row in rng.integers(0, N_ITEMS, 2))]
        for items in histories("toy")
    ]
    trained = histories("toy")
    trained[0][1] = next(name for name in names if name not in trained[0])
    domain, found = write_domain(tmp_path), []
    for number, sequences in enumerate((histories("toy"), held, trained)):
        write_inter(domain, sequences, None)
        settings = small(**TINY, id_query="interactions")
        tokenize([domain], tmp_path / str(number), settings)
        found.append(_ids(tmp_path))
    assert seen[0] == seen[1] != seen[2]
    assert len(seen[0]) == sum(len(items) - 2 for items in histories("toy"))
    assert found[0] == found[1] != found[2]


def test_an_item_without_interactions_gets_codes(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    write_inter(domain, [row[:2] for row in histories("toy")], None)  # nothing is left to train on
    tokenizer = tokenize([domain], tmp_path / "tokenizer", small(**TINY))
    assert tokenizer is not None and tokenizer.binder is not None
    assert tokenizer.binder.history[-1]["contrast"] == 0
    assert read_semantic_ids(domain.file("semid")).n_items == N_ITEMS


# The stream --------------------------------------------------------------------------------------


def test_levels_of_all_segments_stand_side_by_side(tmp_path: Path) -> None:
    tokenizer = _tokenized(tmp_path, streams=["bbq", "identity"])
    assert tokenizer.codebook_sizes == (8,) * 12
    quantizer = tokenizer.quantizers["bbq"]
    assert isinstance(quantizer, SharedResidual)
    assert (quantizer.n_segments, quantizer.dimension) == (3, 24)
    said = "\n".join(report_lines(tokenizer))
    assert "bbq: quantization" in said and "stage 2, bbq" in said
    # Items that lack a modality share the codes of its mean vector.
    rows = [row for row, (_, item) in enumerate(tokenizer.keys) if item in ("toy3", "toy7")]
    np.testing.assert_array_equal(*tokenizer.codes[rows, :3])


def test_a_shared_codebook_quantizes_each_segment_alone() -> None:
    chance = np.random.default_rng(0)
    books = [chance.normal(size=(5, 4)).astype(np.float32) for _ in range(2)]
    both, single = SharedResidual(books, 3), SharedResidual(books, 1)
    vectors = chance.normal(size=(20, 12)).astype(np.float32)
    codes = both.encode(vectors)
    parts = np.split(vectors, 3, axis=1)
    expected = np.concatenate([single.encode(part) for part in parts], axis=1)
    np.testing.assert_array_equal(codes, expected)
    distances = np.concatenate([single.distances(part) for part in parts], axis=1)
    np.testing.assert_allclose(both.distances(vectors), distances, rtol=1e-5)
    decoded = [single.reconstruct(part) for part in np.split(codes, 3, axis=1)]
    np.testing.assert_allclose(both.reconstruct(codes), np.concatenate(decoded, axis=1))
    start = both.reconstruct(codes[:, :3])  # one segment and the first level of the next
    np.testing.assert_allclose(start[:, :4], decoded[0])
    np.testing.assert_allclose(start[:, 4:8], books[0][codes[:, 2]])
    assert not start[:, 8:].any()
    again = load_quantizer(both.state())
    np.testing.assert_array_equal(again.encode(vectors), codes)


def test_same_seed_same_bytes_and_row_order_is_immaterial(tmp_path: Path) -> None:
    for name, changes in (("a", {}), ("b", {}), ("c", {"shuffle": 3}), ("d", {"seed": 1})):
        _tokenized(tmp_path / name, **changes)
    first = _ids(tmp_path / "a")
    assert _ids(tmp_path / "b") == first
    assert _ids(tmp_path / "c") == first
    assert _ids(tmp_path / "d") != first


def test_threads_change_nothing(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            _tokenized(tmp_path / str(threads))
    finally:
        torch.set_num_threads(before)
    assert _ids(tmp_path / "1") == _ids(tmp_path / "2")


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_killed_training_goes_on_to_the_same_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    _tokenized(tmp_path / "whole")
    monkeypatch.setattr(bbq_fit.FitState.__init__, "__defaults__", (0.0,))  # each epoch is kept
    original, calls = bbq_fit._Training.epoch, []

    def killed(self: Any) -> Any:
        calls.append(len(self.binder.history))
        if len(calls) == epoch + 1:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(bbq_fit._Training, "epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        _tokenized(tmp_path / "killed")
    _tokenized(tmp_path / "killed")
    assert _ids(tmp_path / "killed") == _ids(tmp_path / "whole")
    assert calls == [*range(epoch + 1), *range(epoch, 4)]
    _tokenized(tmp_path / "killed")  # all is done
    assert len(calls) == epoch + 1 + 4 - epoch
    assert not (tmp_path / "killed" / "tokenizer" / "stage2.bbq.training").exists()


@pytest.mark.parametrize("query", ["neighbors", "mean"])
def test_new_items_join_and_no_old_id_moves(tmp_path: Path, query: str) -> None:
    domain, names = write_domain(tmp_path), item_names("toy")
    early = names[:40]
    sequences = [[item for item in row if item in early] for row in histories("toy")]
    write_inter(domain, [row for row in sequences if len(row) > 3], None)
    domain.file("item").write_text("\n".join(["item_id:token", *early, ""]), encoding="utf-8")
    made = tokenize([domain], tmp_path / "tokenizer", small(**TINY, new_item_query=query))
    assert made is not None and made.binder is not None
    before = read_semantic_ids(domain.file("semid"))
    domain.file("item").write_text("\n".join(["item_id:token", *names, ""]), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert loaded.binder is not None and loaded.vocabulary == made.vocabulary
    encoded = encode_new_items(loaded, [domain])
    assert sorted(item for _, item in encoded.keys) == sorted(names[40:])
    after = read_semantic_ids(domain.file("semid"))
    assert after.n_items == N_ITEMS
    np.testing.assert_array_equal(after.codes_for(before.items), before.codes)


def test_a_new_item_has_the_content_codes_of_an_equal_old_one(tmp_path: Path) -> None:
    """Item 11 has the vectors of item 10; only z_ID is estimated."""
    domain, names = write_domain(tmp_path), item_names("toy")
    early = [name for name in names if name != "toy11"]
    write_inter(domain, [[n for n in row if n in early] for row in histories("toy")], None)
    domain.file("item").write_text("\n".join(["item_id:token", *early, ""]), encoding="utf-8")
    tokenize([domain], tmp_path / "tokenizer", small(**TINY))
    domain.file("item").write_text("\n".join(["item_id:token", *names, ""]), encoding="utf-8")
    encode_new_items(Tokenizer.load(tmp_path / "tokenizer"), [domain])
    table = read_semantic_ids(domain.file("semid"))
    old, new = table.codes_for(["toy10", "toy11"])
    assert old[:6].tolist() == new[:6].tolist() and old.tolist() != new.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbq__history": 0}, "bbq.history"),
        ({"bbq__club_weigh": 1}, "bbq.club_weigh: unknown setting; did you mean"),
        ({"quantizer": "bbq"}, "quantizer"),
        ({"modalities": ["bbq"]}, "modalities: 'bbq' is a reserved word"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        _tokenized(tmp_path, **changes)
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bbq_fit._Training, "epoch", lambda self: {"total": math.nan})
    with pytest.raises(InputError, match=r"^streams: bbq: the loss is not finite in epoch 1;"):
        _tokenized(tmp_path)


def test_without_interactions_it_says_so(tmp_path: Path) -> None:
    domain = write_domain(tmp_path)
    domain.file("inter").unlink()
    with pytest.raises(InputError, match="no such file, but"):
        tokenize([domain], tmp_path / "tokenizer", small(**TINY))
