"""A critic that is told where in the film a clip begins.

Windows of a long rollout come from all of its moments. A critic that does not know which learns the mixture, and
matching the mixture to the teacher's clips leaves open where in it each moment lies: films may begin too bright and end
too dark as long as the teacher's clips are as different among themselves. Worse, in films that go on from step to step
the critic has followed them to the dark end when a beginning is judged, takes it for what the student no longer makes,
and pushes it away, brighter still. Told the moment, it learns each moment's clips, and each has to match. It is what
conditioning does to distribution matching (arXiv 2311.18828), with the moment as the condition.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn

from sfpp_core.wan.forward import sinusoidal_embedding
from sfpp_core.wan.transformer import WanTransformer

from ..dmd import FlowNetwork


class MomentCritic(nn.Module):
    """A transformer whose text is moved by an embedding of the moment; a fresh one is the transformer itself."""

    def __init__(self, network: WanTransformer) -> None:
        super().__init__()
        self.network = network
        self.moment = nn.Linear(network.config.freq_dim, network.config.text_dim)
        nn.init.zeros_(self.moment.weight)
        nn.init.zeros_(self.moment.bias)

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor, *, start: Tensor) -> Tensor:
        """The flow of clips x [B, C, T, H, W] that begin at latent frames `start` [B] of their films."""
        width = self.moment.in_features
        # Logarithmic: late moments are alike. By its norm: Adam moves all weights at once, and the text would be lost.
        features = sinusoidal_embedding(start.log1p(), width) / math.sqrt(width)
        moved = self.moment(features)
        # The padding too: it is most of what a clip attends to.
        return self.network(x, timestep, text + moved[:, None].to(text))


def critic_at(critic: nn.Module, start: int, clips: Tensor) -> FlowNetwork:
    """What judges clips [B, ...] that begin at a latent frame of their films; a critic that is not told, itself."""
    if not isinstance(critic, MomentCritic):
        return critic
    return partial(critic, start=clips.new_full((len(clips),), float(start)))
