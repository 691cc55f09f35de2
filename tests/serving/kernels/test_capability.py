"""What a GPU is asked for."""

import pytest
import torch

from serving.kernels.capability import check_fp8, refuse_before_fp8


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0), (12, 0)])
def test_a_gpu_from_ada_on_takes_fp8(capability: tuple[int, int]) -> None:
    refuse_before_fp8("NVIDIA H100", capability)
    check_fp8(torch.device("cpu"))


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6)])
def test_a_gpu_before_ada_is_refused_with_what_would_do(capability: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"'NVIDIA A100' has .*; fp8, .* needs 8.9 .*: use int8"):
        refuse_before_fp8("NVIDIA A100", capability)
