"""Root mean square normalization."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Computed in fp32 and rounded before the weight, as transformers does: elsewhere greedy answers drift."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(hidden.dtype)
