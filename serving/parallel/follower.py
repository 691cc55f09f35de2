"""A rank beside the leader: loads its part of the model, and computes what it is told, until it is told to stop.

It ends with the leader, however that one ends: its standard input is a pipe of the leader's, and closes then.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist
from torch import Tensor

from serving.engine.paged_model import PagedModel
from serving.engine.prepare import prepare
from serving.models.decoder import Decoder
from serving.models.share import join
from serving.parallel.group import device_of, join_group, leave_group
from serving.parallel.orders import HERE, READY, Begin, Build, Compute, Order, Prepare, Stop
from serving.weights import load

logger = logging.getLogger(__name__)


def main() -> None:
    """Its one argument is the number of the file over which orders come."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # They are for the leader, which lets requests come to their end first; these need all ranks.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_leader, daemon=True).start()
    orders = Connection(int(sys.argv[1]))
    try:
        follow(orders)
    except _NotLoaded as why:
        _end(orders, str(why))
    except Exception as error:
        logger.exception("this rank ends")
        _end(orders, f"{type(error).__name__}: {error}")


class _NotLoaded(Exception):
    """The model can't be loaded as it is wanted; the leader tells the user what was found and what would do."""


def _end(orders: Connection, reason: str) -> None:
    """Without waiting for what other ranks will never add."""
    with contextlib.suppress(OSError):
        orders.send(reason)
    os._exit(1)


def _end_with_the_leader() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


@torch.inference_mode()
def follow(orders: Connection) -> None:
    """Do what is said, until Stop or the end of the leader."""
    begin: Begin = orders.recv()
    torch.set_num_threads(begin.task.threads)
    orders.send(HERE)
    join_group(begin.folder, begin.share, begin.task.device)
    try:
        model = _loaded(begin)
    except ValueError as why:
        raise _NotLoaded(str(why)) from why
    orders.send(READY)
    with contextlib.suppress(EOFError):
        _obey(orders, model)
    leave_group(begin.task.device)


def _loaded(begin: Begin) -> Decoder:
    task = begin.task
    loaded = load(
        task.source,
        dtype=task.dtype,
        cache_dir=task.cache_dir,
        device=device_of(task.device, begin.share),
        share=begin.share,
    )
    prepare(loaded, scheme=task.scheme)
    join(loaded.model)
    return loaded.model


def _obey(orders: Connection, model: Decoder) -> None:
    paged: PagedModel | None = None
    chosen: Tensor | None = None
    while not isinstance(order := _next(orders), Stop):
        if isinstance(order, Build):
            paged = PagedModel(model, order.sizes)
            continue
        assert paged is not None
        if isinstance(order, Prepare):
            paged.prepare()
        elif isinstance(order, Compute):
            chosen = _compute(paged, order, chosen)


def _next(orders: Connection) -> Order:
    order: Order = orders.recv()
    return order


def _compute(paged: PagedModel, order: Compute, chosen: Tensor | None) -> Tensor | None:
    """One step. chosen, and what comes back: the last step's tokens, as far as they are known here."""
    if order.drawn:
        chosen = torch.empty(order.drawn, dtype=torch.int64, device=paged.model.device)
        dist.broadcast(chosen, src=0)
        paged.remember(chosen)
    _, most_probable = paged.run(order.plan, chosen)
    return most_probable


if __name__ == "__main__":
    main()
