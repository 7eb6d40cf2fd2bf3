from __future__ import annotations

import pytest
import torch
from torch import nn

from plait.errors import ConfigError
from plait.nn.clip import CLIP, CLIPConfig, CLIPTextConfig
from plait.nn.vit import VITConfig, eva_vit
from plait.objectives.masked_image import MaskedImage, Predictor, hide

SIZES = VITConfig(image_size=16, patch=4, width=8, depth=1, heads=2, hidden=16)


class Towers:
    """A teacher of width 12 and a tower of width 8, with what a batch has: pictures."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        teacher = VITConfig(image_size=16, patch=4, width=12, depth=1, heads=2, hidden=16)
        words = CLIPTextConfig(vocabulary=9, positions=4, width=8, depth=1, heads=2, hidden=16)
        self.clip = CLIP(CLIPConfig(image=teacher, text=words, shared=4))
        self.eva = eva_vit(SIZES, nn.Identity())
        self.predictor = Predictor(8, 12)
        self.images = torch.randn(3, 3, 16, 16)

    def loss(self, objective: MaskedImage) -> dict[str, torch.Tensor]:
        return objective(self, {"predictor": self.predictor}, self, torch.Generator().manual_seed(2))  # type: ignore[arg-type]


@pytest.fixture
def towers() -> Towers:
    return Towers()


def test_it_is_the_distance_of_angles_at_hidden_patches(towers: Towers) -> None:
    hidden = hide(3, 16, 0.4, torch.Generator().manual_seed(2))
    made = towers.predictor(towers.eva(towers.images, hidden, towers.predictor.instead)[:, 1:])
    wanted = towers.clip.image(towers.images)[:, 1:]
    assert wanted.shape == made.shape == (3, 16, 12)
    each = [1 - torch.cosine_similarity(made[i][hidden[i]], wanted[i][hidden[i]]).mean() for i in range(3)]
    rest = [1 - torch.cosine_similarity(made[i][~hidden[i]], wanted[i][~hidden[i]]).mean() for i in range(3)]
    terms = towers.loss(MaskedImage(shown=0.5))
    torch.testing.assert_close(terms, {"hidden": torch.stack(each).sum(), "shown": torch.stack(rest).sum()})
    assert set(towers.loss(MaskedImage())) == {"hidden"}


def test_counts_and_weights(towers: Towers) -> None:
    both = MaskedImage(shown=0.5)
    assert both.counts(towers) == {"hidden": 3.0, "shown": 3.0}  # type: ignore[arg-type]
    assert both.weights() == {"hidden": 1.0, "shown": 0.5}
    assert MaskedImage().weights() == {"hidden": 1.0}


def test_the_teacher_learns_nothing(towers: Towers) -> None:
    towers.loss(MaskedImage())["hidden"].backward()
    assert all(weight.grad is None for weight in towers.clip.parameters())
    assert towers.predictor.instead.grad is not None and towers.eva.patch.weight.grad is not None


def test_what_is_hidden_does_not_matter(towers: Towers) -> None:
    hidden = hide(3, 16, 0.4, torch.Generator().manual_seed(2))
    other = towers.images.clone()
    for i, patch in hidden.nonzero().tolist():
        row, column = 4 * (patch // 4), 4 * (patch % 4)
        other[i, :, row : row + 4, column : column + 4] = 0.7
    instead = towers.predictor.instead
    seen, again = (towers.eva(pixels, hidden, instead) for pixels in (towers.images, other))
    torch.testing.assert_close(seen, again)


def test_it_learns(towers: Towers) -> None:
    parameters = [*towers.eva.parameters(), *towers.predictor.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = towers.loss(MaskedImage())["hidden"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_as_many_patches_are_hidden_of_every_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    for patches, share, count in ((16, 0.4, 6), (5, 0.01, 1), (4, 0.99, 3)):
        hidden = hide(50, patches, share, generator)
        assert hidden.sum(1).tolist() == [count] * 50
        assert hidden.any(0).all() and not hidden.all(0).any()
    with pytest.raises(ConfigError, match="1 patches"):
        hide(2, 1, 0.4, generator)
    with pytest.raises(ConfigError, match=r"hidden=1\.0"):
        MaskedImage(hidden=1.0)
