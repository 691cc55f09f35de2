"""The modules that stand in a model where nn.Linear stood.

NativeLinear    int8 and int4 on a CPU: packed once, read by native code. What a row gets does not depend, to the
                bit, on how many rows there are
StoredLinear    the weight as its scheme has it; on a GPU by Triton's kernels, elsewhere by torch: right, but slow
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.kernels import native
from serving.kernels.capability import check_fp8
from serving.quantize import fp8, int4, int8, scaled_rows
from serving.quantize.packing import (
    pack_int4,
    pack_int4_dynamic,
    pack_int8,
    pack_int8_dynamic,
)
from serving.quantize.scaled_rows import ScaledRows

GROUP_INPUTS = int4.GROUP_INPUTS  # every kernel works in groups of so many inputs
_OUTPUTS_AT_ONCE = 4096  # bounds what decoding takes beside the weight


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a weight is kept. encode returns a named tuple of tensors, which decode and pack take.

    pack    the order that native code reads, by functions named for the scheme; None: there is no native code
    kept    a weight from codes, scales and minimums that a file has it in, or None; None: always from numbers
    rounded what the activations are rounded to first; None: they stay as they are
    head    the scheme of a model's head. Its errors go straight into the logits: with four bits in it a model's answers
            drifted twenty times as far as with four bits everywhere else
    """

    name: str
    encode: Callable[[Tensor], Any]
    decode: Callable[[Any, torch.dtype], Tensor]
    pack: Callable[[Any], Tensor] | None
    head: str
    rounded: Callable[[Tensor], Tensor] | None = None
    kept: Callable[[Tensor, Tensor, Tensor], Any] | None = None


_EIGHT_BITS = (int8.encode, scaled_rows.decode)
_FOUR_BITS = (int4.encode, int4.decode)
_FLOATS = (fp8.encode, scaled_rows.decode)
# A head's product is of few rows, as a rule: rounding them too would gain nothing.
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8", *_EIGHT_BITS, pack_int8, head="int8"),
        Scheme("int8-dynamic", *_EIGHT_BITS, pack_int8_dynamic, "int8", int8.rounded),
        Scheme("int4", *_FOUR_BITS, pack_int4, head="int8", kept=int4.kept),
        Scheme("int4-dynamic", *_FOUR_BITS, pack_int4_dynamic, "int8", int8.rounded, int4.kept),
        Scheme("fp8", *_FLOATS, None, head="fp8"),
        Scheme("fp8-dynamic", *_FLOATS, None, "fp8", fp8.rounded),
    )
}


def quantized_linear(weight: Any, bias: Tensor | None, scheme: Scheme) -> nn.Module:
    """A module for a weight that scheme encoded, as fast as its device has it. Raises ValueError for a GPU without fp8."""
    if weight[0].device.type == "cpu" and scheme.pack is not None and native.library() is not None:
        outputs, inputs = _shape(weight)
        return NativeLinear(scheme.name, scheme.pack(weight), bias, inputs, outputs)
    if weight.codes.dtype == torch.float8_e4m3fn:
        check_fp8(weight.codes.device)
    if scheme.name == "fp8-dynamic":
        return Fp8Linear(weight, bias)
    return StoredLinear(scheme, weight, bias)


def _shape(weight: Any) -> tuple[int, int]:
    """Outputs and inputs. A byte of int4 holds two inputs."""
    outputs, columns = weight.codes.shape
    return outputs, columns * 2 if isinstance(weight, int4.Int4Weight) else columns


class StoredLinear(nn.Module):
    """x [rows, inputs] → [rows, outputs] over the weight that a scheme encoded."""

    bias: Tensor | None

    def __init__(self, scheme: Scheme, weight: Any, bias: Tensor | None) -> None:
        super().__init__()
        self.scheme = scheme
        self.out_features, self.in_features = _shape(weight)
        self._kind = type(weight)
        for name, tensor in weight._asdict().items():
            self.register_buffer(name, tensor)
        self.register_buffer("bias", bias)

    def extra_repr(self) -> str:
        return (
            f"{self.scheme.name}, in_features={self.in_features}, out_features={self.out_features}"
        )

    def weight(self) -> Any:
        """What scheme.encode returned."""
        return self._kind(*(self.get_buffer(name) for name in self._kind._fields))

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows if self.scheme.rounded is None else self.scheme.rounded(rows)
        if (product := _product_by_kernel(self, rows)) is not None:
            return product
        parts = zip(*(torch.split(part, _OUTPUTS_AT_ONCE) for part in self.weight()), strict=True)
        products = [
            functional.linear(rows, self.scheme.decode(self._kind(*part), rows.dtype))
            for part in parts
        ]
        product = torch.cat(products, dim=-1)
        return product if self.bias is None else product + self.bias.to(product.dtype)


def _product_by_kernel(linear: StoredLinear, rows: Tensor) -> Tensor | None:
    """By a kernel that reads the weight as it is stored; None where there is none, and for so many rows that
    decoding the weight once costs less."""
    # Here, because they import Triton, which takes a while and only a GPU needs.
    from serving.kernels import triton_jit, triton_linear

    if len(rows) > triton_linear.FEW_ROWS or not triton_jit.usable_on(rows):
        return None
    name = linear.scheme.name.removesuffix("-dynamic")
    multiply = getattr(triton_linear, f"{name}_linear")
    product: Tensor = multiply(rows, *linear.weight(), bias=linear.bias)
    return product


class Fp8Linear(nn.Module):
    """x [rows, inputs] → [rows, outputs], x rounded to fp8 with a scale a row: twice as fast where there are many rows.

    The library chooses its product by the number of rows, so a row's last bits may depend on how many there are.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, weight: ScaledRows, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.codes.shape
        self.register_buffer("codes", weight.codes)
        self.register_buffer("scales", weight.scales)
        self.register_buffer("bias", bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def forward(self, rows: Tensor) -> Tensor:
        x = fp8.encode_rows(rows)
        product = torch._scaled_mm(
            x.codes,
            self.codes.T,
            scale_a=x.scales[:, None],
            scale_b=self.scales[None, :],
            # A GPU that scales by rows writes bf16 only.
            out_dtype=torch.bfloat16 if rows.is_cuda else rows.dtype,
        ).to(rows.dtype)
        return product if self.bias is None else product + self.bias.to(product.dtype)


class NativeLinear(nn.Module):
    """x [rows, inputs] → [rows, outputs] by native code; activations bf16 or fp32, sums fp32."""

    packed: Tensor
    bias: Tensor | None

    def __init__(
        self, scheme: str, packed: Tensor, bias: Tensor | None, inputs: int, outputs: int
    ) -> None:
        super().__init__()
        self.scheme, self.in_features, self.out_features = scheme, inputs, outputs
        self.register_buffer("packed", packed)
        self.register_buffer("bias", None if bias is None else bias.float())
        name = f"quantized_{scheme.replace('-', '_')}"
        self._products = {
            torch.bfloat16: native.function(f"{name}_bf16", "ppppiiii"),
            torch.float32: native.function(f"{name}_fp32", "ppppiiii"),
        }
        # A hundred layers a token are called: asking for these each time would cost a tenth of a token's time.
        self._packed_address = packed.data_ptr()
        self._bias_address = None if self.bias is None else self.bias.data_ptr()

    def _apply(self, *arguments: Any, **options: Any) -> "NativeLinear":
        """What to(), half() and the like do to every module."""
        raise RuntimeError(
            f"weights packed for this CPU in {self.scheme} can't be moved or changed; "
            "quantize the model where it is to run, in the dtype that it is to have"
        )

    def extra_repr(self) -> str:
        return f"{self.scheme}, in_features={self.in_features}, out_features={self.out_features}"

    def forward(self, rows: Tensor) -> Tensor:
        multiply = self._products.get(rows.dtype)
        if multiply is None:
            return self.forward(rows.float()).to(rows.dtype)
        *leading, width = rows.shape
        if width != self.in_features or not rows.is_cpu:
            raise ValueError(
                f"rows {[*rows.shape]} on '{rows.device}' for {self.in_features} inputs packed for a CPU; "
                "quantize the model where it is to run"
            )
        rows = rows.contiguous()
        product = rows.new_empty((*leading, self.out_features))
        multiply(
            self._packed_address,
            self._bias_address,
            rows.data_ptr(),
            product.data_ptr(),
            rows.numel() // width,
            width,
            self.out_features,
            torch.get_num_threads(),
        )
        return product
