"""Products that several ranks compute together, over torch.distributed's default group.

    Summed      each rank has some of a matrix' inputs: what each computes is added up
    Gathered    each rank has some of its outputs: what each computes is put side by side

All ranks call them in the same order with as many rows, and all get the same.
"""

from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

# Libraries add up a buffer's regions in different orders of ranks, so that with more than two of them a row's last bits
# depend on where it lies, and so on who else is in the step. So few rows are gathered, and added in one order.
_FEW_ROWS = 32


class Summed(nn.Module):
    """What `part` computes, added up over the ranks."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, rows: Tensor) -> Tensor:
        return added_up(self.part(rows))


def added_up(product: Tensor) -> Tensor:
    """The sum of all ranks' products [rows, outputs]. The product's own memory may be used for it."""
    ranks = dist.get_world_size()
    if ranks == 2 or len(product) > _FEW_ROWS:
        dist.all_reduce(product)
        return product
    return reduce(torch.add, _gathered(product).float().unbind()).to(product.dtype)


def _gathered(product: Tensor) -> Tensor:
    """[ranks, rows, outputs] of all ranks' products."""
    product = product.contiguous()
    products = product.new_empty((dist.get_world_size(), *product.shape))
    dist.all_gather(list(products.unbind()), product)
    return products


class Gathered(nn.Module):
    """What `part` computes for its rank's outputs, beside that of the others: `outputs` in all, dealt out as
    models/share.py does it, the first ranks one more."""

    def __init__(self, part: nn.Module, outputs: int) -> None:
        super().__init__()
        self.part, self.outputs = part, outputs

    def forward(self, rows: Tensor) -> Tensor:
        own: Tensor = self.part(rows)
        each, over = divmod(self.outputs, dist.get_world_size())
        widest = each + (over > 0)
        products = _gathered(functional.pad(own, (0, widest - own.shape[-1])))
        parts = [
            product[:, : each + (rank < over)] for rank, product in enumerate(products.unbind())
        ]
        return torch.cat(parts, dim=-1)
