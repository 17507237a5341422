"""BERT4Rec with its masks fixed: against RecBole's, hand-made rows and a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Tiny, new_trainer
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.common.errors import InputError

L = 5


def rows(*histories: list[int], targets: list[int] | None = None) -> Interaction:
    padded = [history + [0] * (L - len(history)) for history in histories]
    return Interaction(
        {
            "item_id_list": torch.tensor(padded),
            "item_length": torch.tensor([len(history) for history in histories]),
            "item_id": torch.tensor(targets or [1] * len(histories)),
        }
    )


def build(tiny: Tiny, name: str = "BERT4RecFixed", **settings: Any) -> Any:
    config = tiny.make_config(name, **{"MAX_ITEM_LIST_LENGTH": L, "mask_ratio": 0.4, **settings})
    return new_trainer(config)[0].model.eval()


class Heard(list[Tensor]):
    """What a model's `forward` is given."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        forward = model.forward

        def listening(items: Tensor) -> Any:
            self.append(items.clone())
            return forward(items)

        monkeypatch.setattr(model, "forward", listening)


def test_the_mask_stands_behind_the_history(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole turns the first row into 7 8 M 0 0."""
    model = build(tiny)
    heard, m = Heard(model, monkeypatch), model.mask_token
    model.full_sort_predict(rows([6, 7, 8], [6], [2, 3, 4, 5, 6]))
    expected = [[6, 7, 8, m, 0], [6, m, 0, 0, 0], [3, 4, 5, 6, m]]
    assert heard[0].tolist() == expected


@torch.no_grad()
def test_scores_of_full_histories_are_recboles(tiny: Tiny) -> None:
    stock, model = build(tiny, "BERT4Rec"), build(tiny)
    model.load_state_dict(stock.state_dict())
    full = rows([1, 2, 3, 4, 5], [9, 8, 7, 6, 5])
    torch.testing.assert_close(model.full_sort_predict(full), stock.full_sort_predict(full))
    short = rows([1, 2, 3])
    assert not torch.allclose(model.full_sort_predict(short), stock.full_sort_predict(short))


@torch.no_grad()
def test_the_loss_against_a_loop(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the masks that were drawn: each row's mean, then the mean over rows."""
    model = build(tiny)
    whole = [[1, 2, 3, 4], [5, 6], [11, 12, 13, 14, 15], [7, 8, 9]]
    batch = rows([1, 2, 3], [5], [10, 11, 12, 13, 14], [7, 8], targets=[4, 6, 15, 9])
    for _ in range(20):
        with monkeypatch.context() as patch:
            heard = Heard(model, patch)
            loss = model.calculate_loss(batch)
        total = 0.0
        for items, given in zip(whole, heard[0].tolist(), strict=True):
            assert len(given) == L
            masked = [place for place, item in enumerate(given) if item == model.mask_token]
            assert masked
            shown = [item for place, item in enumerate(items) if place not in masked]
            assert [item for item in given if item not in (0, model.mask_token)] == shown
            hidden = model.forward(torch.tensor([given]))[0]
            own = 0.0
            for place in masked:
                scores = hidden[place] @ model.item_embedding.weight[: model.n_items].T
                own -= (scores + model.output_bias).log_softmax(dim=0)[items[place]].item()
            total += own / len(masked)
        assert loss.item() == pytest.approx(total / len(whole), rel=1e-5)


def test_every_item_is_a_label_and_so_is_the_last_one_alone(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first position and the item behind the history, which RecBole never predicts."""
    model = build(tiny)
    heard = Heard(model, monkeypatch)
    batch = rows(*([[1, 2, 3]] * 400), targets=[4] * 400)
    model.calculate_loss(batch)
    mask = heard[0] == model.mask_token
    assert not mask[:, 4].any()
    last_alone = (mask.sum(dim=1) == 1) & mask[:, 3]
    # Half of the rows on purpose; of the others .6^3 x .4 and a quarter of .6^4 by chance.
    assert last_alone.float().mean().item() == pytest.approx(0.5 + 0.5 * 0.1188, abs=0.08)
    others = mask[~last_alone]
    assert (others.float().mean(dim=0)[:3] > 0.3).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ft_ratio": 1.5}, "ft_ratio: 1.5 is not a number in"),
        ({"mask_ratio": 0.0}, "mask_ratio: 0.0 is not a number in"),
        ({"loss_type": "BPR"}, "loss_type: 'BPR': BERT4RecFixed supports only CE"),
    ],
)
def test_bad_settings(tiny: Tiny, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(tiny, **settings)
