"""Quantizes a loaded model in place."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor, nn

from serving.layers.parts import named_parts, replace_part
from serving.quantize.linear import GROUP_INPUTS, SCHEMES, Scheme, quantized_linear

logger = logging.getLogger(__name__)

HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class Quantized:
    """What quantizing did. Bytes are those of the model's weights; left: modules that stayed, with the reason."""

    scheme: str
    bytes_before: int
    bytes_after: int
    left: Mapping[str, str]


# By a module's name: the codes uint8 or int8 [outputs, inputs], scales and minimums fp16 [outputs, inputs / 32] in which a
# file keeps its weight; None where it keeps it otherwise.
Stored = Callable[[str], tuple[Tensor, Tensor, Tensor] | None]


def quantize(
    model: nn.Module, scheme: str, *, head: bool | None = None, stored: Stored | None = None
) -> Quantized:
    """Put quantized modules in the place of model's nn.Linear, on the device where they are, and free the originals.

    head    whether lm_head is quantized too, as its scheme wants heads; None: on a CPU, where reading it is a good part
            of a token's time. The embedding stays as it is, also where it is tied to the head: a token reads one row.
    stored  what the file has; int4 takes codes of four bits as they are (GGUF's Q4_0 and Q4_1), without rounding twice

    Inputs that are no multiple of 32 stay as they are, and the returned report names them. Raises ValueError, naming the
    module, where a weight is not finite or beyond what the scheme can hold, for a scheme that there is none of, and where nothing is left to quantize.
    """
    how = _scheme(scheme)
    _check_there_is_something(model)
    before = weight_bytes(model)
    left: dict[str, str] = {}
    for name, linear in named_parts(model, nn.Linear):
        reason = _reason_to_leave(name, linear, head=head)
        if reason is None:
            replace_part(model, name, _quantized(name, linear, _scheme_of(name, how), stored))
        else:
            left[name] = reason
    report = Quantized(scheme, before, weight_bytes(model), left)
    _log(report)
    return report


def _scheme(name: str) -> Scheme:
    if name not in SCHEMES:
        raise ValueError(f"there is no scheme '{name}'; expected one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def _scheme_of(name: str, scheme: Scheme) -> Scheme:
    return SCHEMES[scheme.head] if _is_head(name) else scheme


def _is_head(name: str) -> bool:
    return name.rpartition(".")[2] == HEAD


def _check_there_is_something(model: nn.Module) -> None:
    if not any(isinstance(part, nn.Linear) for part in model.modules()):
        raise ValueError(
            "the model has no nn.Linear left to quantize; quantize it once, before its weights are packed"
        )


def _reason_to_leave(name: str, linear: nn.Linear, *, head: bool | None) -> str | None:
    wanted = linear.weight.device.type == "cpu" if head is None else head
    if _is_head(name) and not wanted:
        return "the head was not asked for"
    if linear.in_features % GROUP_INPUTS:
        return f"its {linear.in_features} inputs are no multiple of {GROUP_INPUTS}"
    return None


def _quantized(name: str, linear: nn.Linear, scheme: Scheme, stored: Stored | None) -> nn.Module:
    weight = _kept(name, linear, scheme, stored)
    if weight is None:
        weight = _encoded(name, linear, scheme)
    bias = None if linear.bias is None else linear.bias.detach()
    return quantized_linear(weight, bias, scheme)


def _kept(name: str, linear: nn.Linear, scheme: Scheme, stored: Stored | None) -> Any:
    """The file's own codes, on the weight's device; None where they are of no use to the scheme."""
    found = stored(name) if stored is not None and scheme.kept is not None else None
    if found is None or scheme.kept is None:
        return None
    return scheme.kept(*(part.to(linear.weight.device) for part in found))


def _encoded(name: str, linear: nn.Linear, scheme: Scheme) -> Any:
    try:
        return scheme.encode(linear.weight.detach())
    except ValueError as error:
        raise ValueError(f"'{name}' can't be quantized to {scheme.name}: {error}") from error


def weight_bytes(model: nn.Module) -> int:
    """What the weights take; a matrix that two modules share counts once."""
    storages = [part.untyped_storage() for part in chain(model.parameters(), model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _log(report: Quantized) -> None:
    before, after = report.bytes_before / 2**20, report.bytes_after / 2**20
    logger.info("%s: weights of %.1f MiB take %.1f MiB", report.scheme, before, after)
    for name, reason in report.left.items():
        logger.info("'%s' stays as it is: %s", name, reason)
