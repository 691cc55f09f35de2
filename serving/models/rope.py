"""What a config.json says of rotary embedding, in both spellings."""

from collections.abc import Mapping
from typing import Any

from serving.layers.rotary import (
    DynamicScaling,
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    LongropeScaling,
    Rope,
    Scaling,
    YarnScaling,
)
from serving.models.unsupported import UnsupportedModel

_FIRST_TYPES = "'default', 'linear', 'dynamic', 'llama3', 'yarn' or 'longrope'"


def read_rope(config: Mapping[str, Any], default_theta: float) -> Rope:
    """Raises UnsupportedModel for a kind of scaling that is not computed here, or one without its numbers."""
    rope = _parameters(config)
    if (rope.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedModel(
            f"partial_rotary_factor is {rope['partial_rotary_factor']}; expected 1: whole heads turn"
        )
    theta = rope.get("rope_theta")
    return Rope(default_theta if theta is None else theta, _scaling(rope))


def longest_context(rope: Rope, positions: int) -> int:
    """Tokens that a model takes whose config.json names so many positions: dynamic NTK goes beyond them by its factor."""
    if isinstance(rope.scaling, DynamicScaling):
        return int(positions * rope.scaling.factor)
    return positions


def _parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """rope_theta beside rope_scaling, or (since transformers 5) both in one rope_parameters."""
    names = ("rope_theta", "partial_rotary_factor")
    beside = {name: config[name] for name in names if config.get(name) is not None}
    rope = beside | (config.get("rope_scaling") or config.get("rope_parameters") or {})
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise UnsupportedModel(
            "rope_parameters differ between kinds of layers; expected the same for all"
        )
    longest = config["max_position_embeddings"]
    original = config.get("original_max_position_embeddings")
    if original is None:
        original = rope.get("original_max_position_embeddings", longest)
    return rope | {"original_max_position_embeddings": original, "max_position_embeddings": longest}


def _scaling(rope: Mapping[str, Any]) -> Scaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in _SCALINGS:
        raise UnsupportedModel(
            f"rope scaling is '{kind}'; expected {_FIRST_TYPES}: use another runtime for this model"
        )
    try:
        return _SCALINGS[kind](rope)
    except KeyError as missing:
        raise UnsupportedModel(f"rope scaling '{kind}' says no {missing} in config.json") from None


def _linear(rope: Mapping[str, Any]) -> Scaling:
    return LinearScaling(rope["factor"])


def _llama3(rope: Mapping[str, Any]) -> Scaling:
    return Llama3Scaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_max_position_embeddings=rope["original_max_position_embeddings"],
    )


def _yarn(rope: Mapping[str, Any]) -> Scaling:
    return YarnScaling(
        factor=rope["factor"],
        original_max_position_embeddings=rope["original_max_position_embeddings"],
        attention_factor=rope.get("attention_factor"),
        beta_fast=rope.get("beta_fast") or 32,
        beta_slow=rope.get("beta_slow") or 1,
        mscale=rope.get("mscale"),
        mscale_all_dim=rope.get("mscale_all_dim"),
        truncate=rope.get("truncate", True),
    )


def _dynamic(rope: Mapping[str, Any]) -> Scaling:
    return DynamicScaling(rope["factor"], rope["max_position_embeddings"])


def _longrope(rope: Mapping[str, Any]) -> Scaling:
    original = rope["original_max_position_embeddings"]
    return LongropeScaling(
        short_factors=tuple(rope["short_factor"]),
        long_factors=tuple(rope["long_factor"]),
        original_max_position_embeddings=original,
        factor=rope.get("factor") or rope["max_position_embeddings"] / original,
        attention_factor=rope.get("attention_factor"),
    )


def _factors(rope: Mapping[str, Any]) -> Scaling:
    return FactorScaling(tuple(rope["factors"]))


_SCALINGS = {
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "frequency_factors": _factors,  # ours: what GGUF files have in place of llama3's numbers
}
