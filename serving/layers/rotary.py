"""Rotary position embedding, half-split as in Hugging Face checkpoints (GGUF interleaves: see weights).

Rope         a model's frequencies, with the scaling that stretches them
frequencies  radians per position (where they depend on a sequence's length: see rotary_by_length)
rotation     cosines and sines of a step's positions
rotate       turns heads by them
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Angles = tuple[Tensor, Tensor]  # cosines and sines, as rotation() gives them


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions stand closer together by a factor."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """How Llama 3.1 and later stretch the low frequencies. Fields are named as in config.json."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): fast frequencies stay, slow ones are divided, a ramp between; and heads grow a little.

    beta_fast, beta_slow      turns within the original context from where on a frequency stays, and to where it is divided
    attention_factor          what cosines and sines are multiplied by; None: the paper's, from factor and mscales
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float = 32
    beta_slow: float = 1
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class FactorScaling:
    """Each frequency is divided by a factor of its own, as GGUF files have them."""

    factors: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DynamicScaling:
    """Dynamic NTK: theta grows with a sequence that is longer than the context that the model was trained on."""

    factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LongropeScaling:
    """LongRoPE (arXiv 2402.13753): each frequency is divided by a factor of its own, and by another one in sequences that
    are longer than the original context.

    factor             how much longer than the original context sequences may be
    attention_factor   what cosines and sines are multiplied by; None: the paper's
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float
    attention_factor: float | None = None


Scaling = (
    LinearScaling | Llama3Scaling | YarnScaling | FactorScaling | DynamicScaling | LongropeScaling
)


@dataclass(frozen=True, slots=True)
class Rope:
    """The longest wave is about 2π·theta tokens long, before scaling."""

    theta: float = 10_000.0
    scaling: Scaling | None = None

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        if isinstance(self.scaling, YarnScaling):
            return _attention_factor(self.scaling)
        if isinstance(self.scaling, LongropeScaling):
            return _longrope_attention_factor(self.scaling)
        return 1.0

    @property
    def factors(self) -> tuple[tuple[float, ...], ...]:
        """Lists of a factor for each frequency, where the scaling has such."""
        if isinstance(self.scaling, FactorScaling):
            return (self.scaling.factors,)
        if isinstance(self.scaling, LongropeScaling):
            return self.scaling.short_factors, self.scaling.long_factors
        return ()


def frequencies(head_dim: int, rope: Rope) -> Tensor:
    """Radians per position, fp32 [head_dim / 2], on the CPU whatever the default device is.

    For dynamic NTK those within the original context; for LongRoPE [2, head_dim / 2], the long context's below the short one's.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float, device="cpu") / head_dim
    waves = rope.theta**exponents
    if isinstance(rope.scaling, LinearScaling):
        return 1.0 / waves / rope.scaling.factor
    if isinstance(rope.scaling, Llama3Scaling):
        return _stretch(1.0 / waves, rope.scaling)
    if isinstance(rope.scaling, YarnScaling):
        return _yarn(waves, rope.theta, rope.scaling)
    if isinstance(rope.scaling, FactorScaling):
        return 1.0 / waves / torch.tensor(rope.scaling.factors, device="cpu")
    if isinstance(rope.scaling, LongropeScaling):
        return 1.0 / (torch.tensor(rope.factors, device="cpu") * waves)
    return 1.0 / waves


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


def _yarn(waves: Tensor, theta: float, scaling: YarnScaling) -> Tensor:
    """Between the two dimensions that the betas name a frequency goes over from kept to divided."""
    half = len(waves)
    first = _dimension_that_turns(scaling.beta_fast, half, theta, scaling)
    last = _dimension_that_turns(scaling.beta_slow, half, theta, scaling)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * half - 1)
    width = last - first or 0.001
    dimensions = torch.arange(half, dtype=torch.float, device="cpu")
    kept = 1 - ((dimensions - first) / width).clamp(0, 1)
    return 1.0 / (scaling.factor * waves) * (1 - kept) + 1.0 / waves * kept


def _dimension_that_turns(times: float, half: int, theta: float, scaling: YarnScaling) -> float:
    """Where in a head a wave turns so many times within the original context."""
    wavelength = scaling.original_max_position_embeddings / (times * 2 * math.pi)
    return half * math.log(wavelength) / math.log(theta)


def _attention_factor(scaling: YarnScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _growth(scaling.factor, scaling.mscale) / _growth(
            scaling.factor, scaling.mscale_all_dim
        )
    return _growth(scaling.factor, 1.0)


def _longrope_attention_factor(scaling: LongropeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0
    original = scaling.original_max_position_embeddings
    return math.sqrt(1 + math.log(scaling.factor) / math.log(original))


def _growth(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rotation(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype, attention_factor: float = 1.0
) -> Angles:
    """Cosines and sines [rows, 1, head_dim] for positions [rows]: angles in fp32, then rounded to dtype.

    frequencies   [head_dim / 2], or a row of them for each position.
    """
    angles = positions[:, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    cosines, sines = angles.cos(), angles.sin()
    if attention_factor != 1.0:
        cosines, sines = cosines * attention_factor, sines * attention_factor
    return cosines.to(dtype), sines.to(dtype)


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """heads [rows, n, head_dim] turned by each row's angles."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat((-second, first), dim=-1) * sines
