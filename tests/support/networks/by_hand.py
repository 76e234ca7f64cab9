"""Policies whose state the user carries by hand, through `step`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from support.networks.network import Network
from support.networks.parts import slstm_block, stack


class BlockPolicy(nn.Module):
    """PPO with one sLSTM block: an observation and a state in, logits, a value and a state out."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(6, 16), nn.Tanh())
        self.block = slstm_block(16)
        self.actor, self.critic = nn.Linear(16, 4), nn.Linear(16, 1)

    def forward(self, observation: Tensor, state: dict | None = None) -> tuple[Tensor, Tensor, dict]:
        h = self.encode(observation).unsqueeze(1)
        h, state = self.block.step(h, **(state or {}))
        h = h.squeeze(1)
        return self.actor(h), self.critic(h).squeeze(-1), state


class StackPolicy(nn.Module):
    """The same with `xLSTMBlockStack.step`, both kinds of block."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.stack = nn.Linear(6, 16), stack(16, [0])
        self.actor = nn.Linear(16, 4)

    def forward(self, observation: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:
        h, state = self.stack.step(torch.tanh(self.encode(observation))[:, None], state)
        return self.actor(h[:, 0]), state


class LoopPolicy(nn.Module):
    """A loop over time within `forward`, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.block, self.actor = nn.Linear(6, 16), slstm_block(16), nn.Linear(16, 4)

    def forward(self, observations: Tensor) -> Tensor:
        state: dict = {}
        actions = []
        for t in range(observations.shape[1]):
            h, state = self.block.step(self.encode(observations[:, t : t + 1]), **state)
            actions.append(self.actor(h))
        return torch.cat(actions, 1)


BY_HAND = [
    Network("policy-block", BlockPolicy, {"observation": "B,6:float32"}, by_hand=True, time_axes=(1, 1)),
    Network("policy-stack", StackPolicy, {"observation": "B,6:float32"}, by_hand=True),
    Network("policy-loop", LoopPolicy, {"observations": "B,S,6:float32"}, refusable=True),
]
