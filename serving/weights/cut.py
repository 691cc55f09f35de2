"""What one rank of several needs of a checkpoint (see models/share.py).

cut          the tensors' pieces, under the tensors' own names; only they are read, where the format lets one
cut_codes    a piece of a tensor's codes
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from serving.models.config import DecoderConfig
from serving.models.share import WHOLE, Piece, Share, is_added_once, piece_of
from serving.models.unsupported import UnsupportedModel
from serving.weights.checkpoint import FolderTensors
from serving.weights.grouped import GROUP_INPUTS, GroupedCodes


def cut(tensors: Mapping[str, Tensor], config: DecoderConfig, share: Share) -> Mapping[str, Tensor]:
    """config is the whole decoder's. A lookup raises UnsupportedModel where a tensor is not what config says."""
    return tensors if share == WHOLE else _CutTensors(tensors, config, share)


class _CutTensors(Mapping[str, Tensor]):
    def __init__(self, tensors: Mapping[str, Tensor], config: DecoderConfig, share: Share) -> None:
        self._tensors, self._config, self._share = tensors, config, share

    def __getitem__(self, name: str) -> Tensor:
        piece = piece_of(self._config, self._share, name)
        if piece is not None:
            return self._piece(name, piece)
        whole = self._tensors[name]
        return torch.zeros_like(whole) if self._share.rank and is_added_once(name) else whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _piece(self, name: str, piece: Piece) -> Tensor:
        if isinstance(self._tensors, FolderTensors):
            _check(name, self._tensors.shape(name), piece)
            return self._tensors.part(name, piece.dim, piece.start, piece.end)
        whole = self._tensors[name]
        _check(name, whole.shape, piece)
        return whole.narrow(piece.dim, piece.start, piece.end - piece.start)


def _check(name: str, shape: tuple[int, ...], piece: Piece) -> None:
    """A piece of a tensor of another size would be a piece of something else."""
    if len(shape) <= piece.dim or shape[piece.dim] != piece.size:
        raise UnsupportedModel(
            f"the checkpoint's tensor '{name}' has the shape {[*shape]}; config.json means {piece.size} in "
            f"dimension {piece.dim}: is it that of these weights?"
        )


def cut_codes(codes: GroupedCodes | None, piece: Piece | None) -> GroupedCodes | None:
    """None where there are no codes, or where the piece would cut a group in two."""
    if codes is None or piece is None:
        return codes
    step = GROUP_INPUTS if piece.dim == 1 else 1
    if piece.start % step or piece.end % step:
        return None
    start, length = piece.start // step, (piece.end - piece.start) // step
    return GroupedCodes(
        codes.codes.narrow(piece.dim, piece.start, piece.end - piece.start),
        codes.scales.narrow(piece.dim, start, length),
        codes.minimums.narrow(piece.dim, start, length),
    )
