"""Train the example policy (`models/examples/pole`) to keep a pole up, by imitation of a regulator that sees all.

    python scripts/train_pole.py                 # about ten minutes on a core of its own
    python scripts/train_pole.py --only-measure

The teacher is a linear-quadratic regulator, which knows positions and velocities; the policy sees positions only, a
little noisy. It drives the carts itself (more and more of them, as training goes on) and learns what the teacher would
have done where its own actions led (Ross, Gordon and Bagnell 2011, DAgger). Gradients go back through 0.1 s.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.linalg import solve_discrete_are

HERE = Path(__file__).parent.parent / "models" / "examples" / "pole"
sys.path.insert(0, str(HERE))
import plant  # noqa: E402
from network import Policy, build  # noqa: E402

START_SPREAD = (0.4, 0.3, 0.12, 0.5)
NOISE = 5e-4  # m and rad, standard deviation


def regulator() -> torch.Tensor:
    """Gains (4,) of the teacher: force = -gains . state, for the plant linearised by differences around upright."""
    zero, size = (0.0, 0.0, 0.0, 0.0), 1e-5
    moved = [plant.step([size * (i == j) for i in range(4)], 0.0) for j in range(4)]
    a = torch.tensor(moved, dtype=torch.float64).T / size
    b = torch.tensor(plant.step(zero, size), dtype=torch.float64)[:, None] / size
    q, r = torch.diag(torch.tensor([1.0, 0.1, 10.0, 0.1], dtype=torch.float64)), torch.tensor([[0.05]]).double()
    p = torch.from_numpy(solve_discrete_are(a.numpy(), b.numpy(), q.numpy(), r.numpy()))
    return torch.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)[0]


def starts(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Random states (4, rows), float64."""
    uniform = torch.rand(4, rows, generator=generator, dtype=torch.float64) * 2 - 1
    return uniform * torch.tensor(START_SPREAD, dtype=torch.float64)[:, None]


def clear_rows(state: dict, rows: torch.Tensor) -> dict:
    """The policy's state with some rows at their beginning."""
    keep = (~rows).float()
    conv, cells = state["conv_state"][0], state["slstm_state"]
    return {"conv_state": (conv * keep[:, None, None],), "slstm_state": cells * keep[None, :, None]}


def detached(state: dict) -> dict:
    return {"conv_state": (state["conv_state"][0].detach().clone(),), "slstm_state": state["slstm_state"].detach()}


def train(policy: Policy, rounds: int, rows: int, horizon: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gains = regulator()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=4e-3, weight_decay=1e-4)
    state, world, begun = None, starts(rows, generator), time.monotonic()
    for index in range(rounds):
        progress = index / rounds
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, (index + 1) / 20) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        taught = torch.rand(rows, generator=generator) > 2.5 * progress  # who is driven by the teacher this round
        pushes = torch.randn(rows, generator=generator).double() * 4 * (torch.rand(rows, generator=generator) < 0.2)
        loss, falls = torch.zeros(()), 0
        for t in range(horizon):
            seen = world[[0, 2]].T.float()
            seen = seen + NOISE * torch.randn(seen.shape, generator=generator)
            force, state = policy(seen, state)
            state = {"conv_state": (state["conv_state"][0].clone(),), "slstm_state": state["slstm_state"]}
            wanted = (-gains @ world).clamp(-plant.MAX_FORCE, plant.MAX_FORCE)
            loss = loss + F.smooth_l1_loss(force[:, 0], wanted.float(), beta=2.0) / horizon
            applied = torch.where(taught, wanted, force[:, 0].detach().double())
            outside = pushes if t < 50 else torch.zeros_like(pushes)
            world = torch.stack(plant.step(tuple(world), applied + outside))
            fallen = ~plant.up(tuple(world)) | (torch.rand(rows, generator=generator) < 1 / 8000)
            if fallen.any():
                falls += int(fallen.sum())
                world = torch.where(fallen, starts(rows, generator), world)
                state = clear_rows(state, fallen)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        state = detached(state)
        if index % 50 == 0:
            spent = (time.monotonic() - begun) / 60
            print(f"{index}  {spent:.1f} min  loss {loss.item():.3f}  {falls} new starts", flush=True)


@torch.no_grad()
def seconds_balanced(policy: Policy, rows: int, seconds: float, seed: int, forget: bool = False) -> torch.Tensor:
    """How long each of `rows` poles stands, (rows,) [s], at most `seconds`: random starts, and the plant's pushes.

    With `forget` the policy starts anew at every step, which shows what it owes to memory.
    """
    world, state = starts(rows, torch.Generator().manual_seed(seed)), None
    stands, lasted = torch.ones(rows, dtype=torch.bool), torch.zeros(rows)
    for index in range(round(seconds / plant.DT)):
        force, state = policy(world[[0, 2]].T.float(), None if forget else state)
        world = torch.stack(plant.step(tuple(world), force[:, 0].double() + plant.push(index)))
        stands &= plant.up(tuple(world))
        lasted += stands * plant.DT
        if not stands.any():
            break
    return lasted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "ckpt.pt")
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--horizon", type=int, default=100, help="steps of 1 ms that gradients go back")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-measure", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    policy = build()
    if not args.only_measure:
        train(policy, args.rounds, args.rows, args.horizon, args.seed)
        torch.save(policy.state_dict(), args.out)
    policy.load_state_dict(torch.load(args.out, weights_only=True))
    policy.eval()
    for name, forget in (("with its memory", False), ("started anew at every step", True)):
        lasted = seconds_balanced(policy, 100, 20.0, seed=1, forget=forget)
        print(f"{name}: {int((lasted > 19.99).sum())} of 100 poles stand for 20 s, median {lasted.median():.1f} s")


if __name__ == "__main__":
    main()
