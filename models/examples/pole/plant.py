"""A pole on a cart, simulated at 1 kHz, with pushes from outside.

Equations of motion: Barto, Sutton and Anderson 1983 without friction, as in Florian 2007, "Correct equations for the
dynamics of the cart-pole system". Every line is additions, products and quotients of doubles, evaluated from left to
right, so that a program in another language repeats the simulation bit by bit (in C++ without contraction to fused
operations: `-ffp-contract=off`). The functions take floats, numpy arrays or tensors alike.

A state is four values: position of the cart [m], its velocity [m/s], angle of the pole from upright [rad], its velocity
[rad/s].
"""

DT = 0.001  # s
GRAVITY = 9.8  # m/s^2
CART_MASS = 1.0  # kg
POLE_MASS = 0.1  # kg
HALF_LENGTH = 0.15  # m, from the joint to the middle of the pole
TOTAL_MASS = CART_MASS + POLE_MASS
POLE_MOMENT = POLE_MASS * HALF_LENGTH
TRACK = 2.4  # m: beyond it the cart has left the track
FALLEN = 0.5  # rad: beyond it the pole counts as fallen
MAX_FORCE = 10.0  # N
START = (0.2, 0.0, 0.1, 0.0)
PUSH_FORCE = 4.0  # N
PUSH_STEPS = 100
PUSH_EVERY = 2000  # steps


def sine(angle):
    """The Taylor polynomial of degree 9; its error is below 2e-11 up to `FALLEN`."""
    a = angle * angle
    return angle * (1 - a / 6 * (1 - a / 20 * (1 - a / 42 * (1 - a / 72))))


def cosine(angle):
    """The Taylor polynomial of degree 10; its error is below 1e-12 up to `FALLEN`."""
    a = angle * angle
    return 1 - a / 2 * (1 - a / 12 * (1 - a / 30 * (1 - a / 56 * (1 - a / 90))))


def step(state, force):
    """The state 1 ms later, by the semi-implicit Euler method; `force` [N] acts on the cart."""
    position, velocity, angle, rate = state
    sin, cos = sine(angle), cosine(angle)
    pull = (force + POLE_MOMENT * rate * rate * sin) / TOTAL_MASS
    turn = (GRAVITY * sin - cos * pull) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos * cos / TOTAL_MASS))
    velocity = velocity + DT * (pull - POLE_MOMENT * turn * cos / TOTAL_MASS)
    rate = rate + DT * turn
    return position + DT * velocity, velocity, angle + DT * rate, rate


def push(index):
    """The force [N] from outside in step `index`: 0.1 s long every 2 s, to one side and the other in turn."""
    turn, within = divmod(index, PUSH_EVERY)
    if within < PUSH_EVERY - PUSH_STEPS:
        return 0.0
    return PUSH_FORCE if turn % 2 == 0 else -PUSH_FORCE


def up(state):
    """Whether the pole stands and the cart is on its track."""
    position, _, angle, _ = state
    return (-TRACK < position) & (position < TRACK) & (-FALLEN < angle) & (angle < FALLEN)
