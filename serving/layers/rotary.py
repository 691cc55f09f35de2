"""Rotary position embedding, half-split as in Hugging Face checkpoints (GGUF interleaves: see weights)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """How Llama 3.1 and later stretch the low frequencies. Fields are named as in config.json."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


def inverse_frequencies(head_dim: int, theta: float, scaling: Llama3Scaling | None) -> Tensor:
    """Radians per position, fp32 [head_dim / 2], on the CPU whatever the default device is."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float, device="cpu") / head_dim
    frequencies = 1.0 / (theta**exponents)
    return frequencies if scaling is None else _stretch(frequencies, scaling)


def _stretch(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """The published Llama 3.1 rule: long waves divided by the factor, short ones kept, a ramp between."""
    wavelengths = 2 * math.pi / frequencies
    context = scaling.original_max_position_embeddings
    longest, shortest = context / scaling.low_freq_factor, context / scaling.high_freq_factor
    ramp = (context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - ramp) * frequencies / scaling.factor + ramp * frequencies
    stretched = torch.where(wavelengths > longest, frequencies / scaling.factor, frequencies)
    return torch.where((wavelengths <= longest) & (wavelengths >= shortest), between, stretched)


def rotation(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [rows, 1, head_dim] for positions [rows]: angles in fp32, then rounded to dtype."""
    angles = positions[:, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """heads [rows, n, head_dim] turned by each row's angles."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat((-second, first), dim=-1) * sines
