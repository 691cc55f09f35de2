"""Run with TRITON_INTERPRET=1: products by the GPU's kernels, interpreted. Prints the schemes that were right."""

import torch

from serving.kernels import triton_jit
from serving.quantize.linear import SCHEMES, StoredLinear

if __name__ == "__main__":
    torch.manual_seed(0)
    assert triton_jit.usable_on(torch.zeros(1))
    x, bias = torch.randn(3, 96).bfloat16(), torch.randn(20).bfloat16()
    for name in ("int8", "int4", "fp8"):
        scheme = SCHEMES[name]
        encoded = scheme.encode(torch.randn(20, 96) / 10)
        expected = x.double() @ scheme.decode(encoded, torch.float64).T + bias.double()
        off = (StoredLinear(scheme, encoded, bias)(x).double() - expected).abs()
        assert (off <= 2e-2 * (1 + expected.abs())).all(), (name, off.max())
        print(name)  # noqa: T201  what the test reads
