"""The gated feed-forward block (SwiGLU)."""

from torch import Tensor, nn
from torch.nn import functional


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)); gate and up are one matrix, read in one call."""

    def __init__(self, hidden_size: int, intermediate_size: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(hidden_size, 2 * intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        down: Tensor = self.down_proj(functional.silu(gate) * up)
        return down
