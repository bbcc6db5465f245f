"""Which model a state belongs to: forms of one model are the same, other models are not, whatever form they are in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.model_identity import ModelIdentity, sketch_of
from sfpp_core.rollout.state import RolloutState

NUM_VALUES = 2400
WEIGHTS = torch.randn(NUM_VALUES, generator=torch.Generator().manual_seed(0))


def identity(
    values: Tensor, form: str = "", bits: float = 16, exact: str = "a", patches: str = "none"
) -> ModelIdentity:
    return ModelIdentity(exact=exact, patches=patches, form=form, bits=bits, sketch=sketch_of(values))


def rounded(values: Tensor, bits: int, block: int = 32) -> Tensor:
    """Rounded to whole numbers of so many bits, each block with a scale of its own."""
    blocks = values.view(-1, block)
    scale = blocks.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    return ((blocks / scale).round() * scale).flatten()


PLAIN = identity(WEIGHTS)


@pytest.mark.parametrize("bits", (8, 4, 3))
def test_a_quantised_form_is_the_same_model(bits: int):
    quantised = identity(rounded(WEIGHTS, bits), form=f"{bits} bits", bits=bits, exact="b")
    other_form = identity(rounded(WEIGHTS, 6), form="6 bits", bits=6, exact="c")
    for first, second in ((PLAIN, quantised), (quantised, PLAIN), (quantised, other_form), (other_form, quantised)):
        assert first.is_same_model(second)


@pytest.mark.parametrize("noise", (0.05, 0.3, 1.0))
def test_another_model_in_the_same_form_is_another_model(noise: float):
    generator = torch.Generator().manual_seed(1)
    other = WEIGHTS + noise * torch.randn(NUM_VALUES, generator=generator)
    forms = [
        identity(rounded(values, 8), form="8 bits", bits=8.5, exact=exact)
        for values, exact in ((WEIGHTS, "b"), (other, "c"))
    ]
    assert not forms[0].is_same_model(forms[1])
    assert not PLAIN.is_same_model(identity(other, exact="c"))


def test_another_model_in_another_form_is_another_model():
    other = torch.randn(NUM_VALUES, generator=torch.Generator().manual_seed(2))
    for bits in (8, 4, 2):
        assert not PLAIN.is_same_model(identity(rounded(other, bits), form="quantised", bits=bits, exact="b"))


def test_loras_count_in_every_form():
    quantised = identity(rounded(WEIGHTS, 8), form="8 bits", bits=8, exact="b")
    assert not PLAIN.is_same_model(replace(quantised, patches="another"))


def test_floating_point_is_told_by_signs_alone():
    assert not PLAIN.is_same_model(replace(PLAIN, exact="b"))
    assert PLAIN.is_same_model(identity(torch.zeros(NUM_VALUES)))


def test_an_identity_is_read_as_it_was_written():
    quantised = identity(rounded(WEIGHTS, 4), form="4 bits", bits=4.5, exact="b")
    assert ModelIdentity.parse(str(quantised)) == quantised
    assert ModelIdentity.parse(str(PLAIN)) == PLAIN


@pytest.mark.parametrize("text", ("0123456789abcdef", "any", "a:b:c:d:e", "a:b:c:4:%%%"))
def test_other_texts_are_identities_of_their_own(text: str):
    known = ModelIdentity.parse(text)
    assert str(known) == text
    assert known.is_same_model(ModelIdentity.parse(text)) and not known.is_same_model(PLAIN)


def test_a_state_goes_on_with_a_quantised_form_of_its_model_and_with_no_other():
    state = RolloutState(config=RolloutConfig(), seed=0, model_id=str(PLAIN), shape=(1, 16, 4, 4))
    state.require_model(str(identity(rounded(WEIGHTS, 8), form="8 bits", bits=8, exact="b")))
    other = torch.randn(NUM_VALUES, generator=torch.Generator().manual_seed(3))
    with pytest.raises(ValueError, match="made by another model"):
        state.require_model(str(identity(rounded(other, 8), form="8 bits", bits=8, exact="b")))
