"""A decoder's weights from a checkpoint's tensors, one after the other.

The model is laid out once, in the dtype and on the device that it is to have; each tensor is read, copied to its place and
let go. So loading takes the model and one tensor.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from serving.models.config import DecoderConfig
from serving.models.decoder import Decoder
from serving.models.unsupported import UnsupportedModel

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_OUTER = (
    "model."  # before every name but the head's; checkpoints of a model without a head leave it out
)
_NAMED = 5  # tensors in an error


def from_checkpoint(
    config: DecoderConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Decoder:
    """The model over a checkpoint's tensors, named as Hugging Face names them.

    Raises UnsupportedModel where a tensor is missing, of another shape, or none of ours.
    """
    model = laid_out(config, dtype, device)
    theirs = {_our_name(name): name for name in tensors if not _is_needless(name, config)}
    what = f"a {config.architecture} of {config.num_hidden_layers} layers"
    fill(_places(model), tensors, theirs, what)
    return model


def laid_out(config: DecoderConfig, dtype: torch.dtype, device: torch.device | str) -> Decoder:
    """The model with room for its weights, which are whatever the memory held."""
    with torch.device("meta"):
        model = Decoder(config)
    room = {
        name: torch.empty(weight.shape, dtype=dtype, device=device)
        for name, weight in _own_weights(model)
    }
    model.load_state_dict(room, assign=True, strict=False)
    if config.tie_word_embeddings:
        model.tie_head()
    model.inverse_frequencies = model.inverse_frequencies.to(device)
    return model.requires_grad_(False).eval()


def _own_weights(model: Decoder) -> Iterator[tuple[str, Tensor]]:
    """All but those that are another's memory: a tied head's."""
    for name, weight in model.named_parameters():
        if name != _HEAD or not model.config.tie_word_embeddings:
            yield name, weight


# Matrices that lie apart in a checkpoint and are read as one here.
_MERGED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


def checkpoint_names(config: DecoderConfig, name: str) -> list[str]:
    """The checkpoint's names of the tensors that one of the decoder's parameters is made of, one below the other."""
    if name == _HEAD:
        return [_OUTER + _EMBEDDING if config.tie_word_embeddings else _HEAD]
    return [_OUTER + part for part in _parts(name)]


def _parts(name: str) -> list[str]:
    for merged, parts in _MERGED.items():
        if merged in name:
            return [name.replace(merged, part) for part in parts]
    return [name]


def _places(model: Decoder) -> dict[str, Tensor]:
    """Where the numbers of each tensor go, by the checkpoint's names without the outer one."""
    places: dict[str, Tensor] = {}
    for name, weight in _own_weights(model):
        parts = _parts(name)
        rows = _rows(parts, weight, model.config)
        places |= zip(parts, torch.split(weight, rows), strict=True)
    return places


def _rows(parts: Sequence[str], weight: Tensor, config: DecoderConfig) -> list[int]:
    if len(parts) == 3:
        kv_rows = config.num_key_value_heads * config.head_dim
        return [config.num_attention_heads * config.head_dim, kv_rows, kv_rows]
    return [len(weight) // len(parts)] * len(parts)


def _our_name(name: str) -> str:
    return name.removeprefix(_OUTER)


def _is_needless(name: str, config: DecoderConfig) -> bool:
    """Old checkpoints carry rotary tables, which are computed here, and tied ones may carry the head as well."""
    return name.endswith("rotary_emb.inv_freq") or (name == _HEAD and config.tie_word_embeddings)


def fill(
    places: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    theirs: Mapping[str, str],
    what: str,
) -> None:
    """Copy each tensor to its place, one after the other; a lookup in `tensors` may read a file.

    theirs    the checkpoint's name of each tensor that counts, by ours.
    what      the model, for errors: a LlamaForCausalLM of 16 layers.

    Raises UnsupportedModel, before anything is read where names tell.
    """
    _check_names(what, found=theirs, wanted=places)
    for ours, name in theirs.items():
        _put(name, tensors[name], places[ours])


def _check_names(what: str, *, found: Mapping[str, str], wanted: Collection[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UnsupportedModel(
            f"the checkpoint has no tensor {_listed(missing)}; {what} needs it: is the download complete?"
        )
    unknown = [name for name in found if name not in wanted]
    if unknown:
        # To pass over a tensor would compute another model.
        raise UnsupportedModel(
            f"the checkpoint has tensors that {what} does not use: "
            f"{_listed([found[name] for name in unknown])}; is config.json that of these weights?"
        )


def _listed(names: Sequence[str]) -> str:
    """Of many names the first few."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in sorted(names)[:_NAMED]) + more


def _put(name: str, tensor: Tensor, place: Tensor) -> None:
    if tensor.shape != place.shape:
        raise UnsupportedModel(
            f"the checkpoint's tensor '{name}' has the shape {[*tensor.shape]}; config.json means "
            f"{[*place.shape]}: is it that of these weights?"
        )
    if not tensor.is_floating_point():
        raise UnsupportedModel(
            f"the checkpoint's tensor '{name}' holds {tensor.dtype}; expected floats: "
            "use the model's bf16 or fp16 folder, or a GGUF file"
        )
    place.copy_(tensor)
