"""Linear layers and embeddings of a bf16 model on a CPU, over weights in the order in which native code reads them.

    pack              puts these modules where nn.Linear and nn.Embedding stand
    PackedLinear      reads a weight at the speed of the memory for few rows, and is as fast as torch for many
    PackedEmbedding   the rows of a matrix that a head shares with it, so that it lies in memory once

serving/kernels/native/linear.c does the work, and says why a row gets the same, to the bit, in every batch.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.kernels import native
from serving.layers.parts import named_parts, replace_part

_PANEL_OUTPUTS = 32  # as in linear.c


def pack(model: nn.Module) -> None:
    """Replace what can be in place, and free the originals.

    Stays as it is: what is not bf16 on a CPU, has an odd number of inputs, or is quantized already; and everything
    where there is no native code. A packed model can't be moved to another device or dtype any more.
    """
    if native.library() is None:
        return
    packed: dict[_Original, Tensor] = {}
    for name, linear in named_parts(model, nn.Linear):
        original = _original(linear.weight)
        if not _can_be_packed(linear.weight):
            continue
        if original not in packed:
            packed[original] = pack_weight(linear.weight)
        replace_part(model, name, PackedLinear(packed[original], linear.weight.shape, linear.bias))
    for name, embedding in named_parts(model, nn.Embedding):
        shared = packed.get(_original(embedding.weight))
        if shared is not None:
            replace_part(model, name, PackedEmbedding(shared, embedding.weight.shape))


# Address and rows of a weight, which several modules may share. A head may share only the first rows of an embedding.
_Original = tuple[int, int]


def _original(weight: Tensor) -> _Original:
    return weight.data_ptr(), len(weight)


def _can_be_packed(weight: Tensor) -> bool:
    return (
        weight.dtype == torch.bfloat16
        and weight.device.type == "cpu"
        and weight.shape[1] % 2 == 0
        and weight.numel() > 0
    )


def pack_weight(weight: Tensor) -> Tensor:
    """weight [outputs, inputs] as [panels, inputs / 2, 32 outputs, 2 inputs]; missing outputs are zeros."""
    outputs, inputs = weight.shape
    whole = functional.pad(weight.detach(), (0, 0, 0, -outputs % _PANEL_OUTPUTS))
    return whole.view(-1, _PANEL_OUTPUTS, inputs // 2, 2).transpose(1, 2).contiguous()


class _Packed(nn.Module):
    """What packed modules share: the weight, and that it stays where it is."""

    packed: Tensor

    def __init__(self, packed: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("packed", packed)
        self.rows, self.row_size = shape
        # Asking a tensor for its address each time would take a third of a small product's time.
        self._address = packed.data_ptr()

    def extra_repr(self) -> str:
        return f"{self.rows} rows of {self.row_size} bf16 numbers"

    def _apply(self, *arguments: Any, **options: Any) -> "_Packed":
        """What to(), half() and the like do to every module."""
        raise RuntimeError(
            "weights packed for this CPU can't be moved or changed; "
            "pack the model where it is to run, in the dtype that it is to have"
        )


class PackedLinear(_Packed):
    """x bf16 [rows, inputs] → [rows, outputs]; sums in fp32."""

    bias: Tensor | None

    def __init__(self, packed: Tensor, shape: tuple[int, ...], bias: Tensor | None) -> None:
        super().__init__(packed, shape)
        self.out_features, self.in_features = shape
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self._bias_address = None if self.bias is None else self.bias.data_ptr()
        self._multiply = native.function("linear_bf16", "ppppiiii")

    def forward(self, rows: Tensor) -> Tensor:
        inputs, outputs = self.in_features, self.out_features
        if rows.dtype != torch.bfloat16 or rows.shape[-1] != inputs or not rows.is_cpu:
            raise ValueError(
                f"{rows.dtype} rows {[*rows.shape]} on '{rows.device}' for a weight packed for a CPU; "
                f"expected bf16 rows of {inputs}"
            )
        rows = rows.contiguous()
        product = rows.new_empty((*rows.shape[:-1], outputs))
        assert self._multiply is not None, "packed for native code that is not there"
        self._multiply(
            self._address,
            self._bias_address,
            rows.data_ptr(),
            product.data_ptr(),
            rows.numel() // inputs,
            inputs,
            outputs,
            torch.get_num_threads(),
        )
        return product


class PackedEmbedding(_Packed):
    """Token ids → bf16 rows of the packed matrix."""

    def __init__(self, packed: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__(packed, shape)
        self._take = native.function("linear_rows", "pppii")

    def forward(self, token_ids: Tensor) -> Tensor:
        ids = token_ids.to(torch.int64).contiguous()
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.rows):
            raise IndexError(f"token ids reach beyond the {self.rows} that the model has")
        rows = torch.empty((*ids.shape, self.row_size), dtype=torch.bfloat16)
        assert self._take is not None, "packed for native code that is not there"
        self._take(self._address, ids.data_ptr(), rows.data_ptr(), ids.numel(), self.row_size)
        return rows
