"""What kernels ask of their tensors' strides."""

from torch import Tensor


def with_whole_rows(heads: Tensor) -> Tensor:
    """heads [rows, n, head_dim], with each row in one piece: a part of a product is fine as it is."""
    return heads if heads.stride()[1:] == (heads.shape[2], 1) else heads.contiguous()
