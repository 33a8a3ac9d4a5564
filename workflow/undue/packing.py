"""What large things hold: for packing attacks side by side, and for the estimate of what a run will cost.

It imports no more than Python has, so that an estimate needn't wait for torch.
"""

from __future__ import annotations

from collections.abc import Iterator

# Parameters of a head, at most, of which a Hessian is factorised: its matrix takes 1 GB in single precision.
FACTORISED = 16_000


def numbers_per_lane(*, train: int, test: int, d: int, k: int, targets: int = 1, kept: int) -> int:
    """What the working tensors of one attack hold, in numbers of the problem's precision.

    Of n·k numbers each: the softmax state, the outputs of three solutions, of one in the making and of its
    direction, and copies of most of these without the lanes that have arrived. Scores, weights and what they
    are made of. And of θ's size the vectors of the solves, of Adam and of the iterates kept, these twice.

    Args:
        train: training samples.
        test: test samples of both halves.
        d: features, with the bias.
        k: classes.
        targets: of the lane.
        kept: iterates that may be published.
    """
    return train * (8 * k + 10 + targets) + test * (k + 4) + (24 + 2 * kept) * d * k


def equal_packs(lanes: int, *, memory: float, per_lane: float) -> Iterator[slice]:
    """Slices of lanes that fit into `memory` bytes at so many bytes each; one lane at least.

    As few packs as fit, of nearly equal size: a last pack of one lane would be slow.
    """
    size = max(1, int(memory // per_lane))
    count = -(-lanes // size)
    for number in range(count):
        yield slice(lanes * number // count, lanes * (number + 1) // count)
