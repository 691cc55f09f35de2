"""Eight bits as a small float (e4m3: largest 448), one scale an output row: w ≈ code · scale.

fp8-dynamic rounds the activations too, each row with a scale of its own; fp8 leaves them as they are.
"""

import torch
from torch import Tensor

from serving.quantize.scaled_rows import ScaledRows, decode

_LARGEST_CODE = 448.0


def encode(weight: Tensor) -> ScaledRows:
    """The nearest codes to weight [outputs, inputs]. Raises ValueError where a weight is no number."""
    if not weight.isfinite().all():
        raise ValueError("it holds weights that are not finite; the checkpoint is damaged")
    return encode_rows(weight)


def encode_rows(rows: Tensor) -> ScaledRows:
    """Like encode, of anything: it does not look whether there are numbers, for which a GPU would be waited for."""
    wide = rows.float()
    scales = wide.abs().amax(dim=1) / _LARGEST_CODE
    codes = wide / torch.where(scales > 0, scales, 1)[:, None]
    return ScaledRows(codes.clamp_(-_LARGEST_CODE, _LARGEST_CODE).to(torch.float8_e4m3fn), scales)


def rounded(rows: Tensor) -> Tensor:
    """Activations [rows, inputs] as they are after rounding, in rows' dtype."""
    return decode(encode_rows(rows), rows.dtype)
