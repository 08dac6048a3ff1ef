# SPDX-License-Identifier: AGPL-3.0-or-later
"""Counts what a pass moves and keeps, by the shapes of its tensors alone: on the device "meta" nothing is computed."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators that move nothing though their result shares no storage with their arguments: they allocate.
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "detach"}


def bytes_of(value):
    """The bytes of a tensor that hold different numbers: an expanded one is read once."""
    sizes = [size for size, stride in zip(value.shape, value.stride()) if stride or not size]
    return torch.Size(sizes).numel() * value.element_size()


def tensors(*values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class Traffic(TorchDispatchMode):
    """Adds up, over all operators that are not views, the bytes of all tensors they read and write, and counts them."""

    def __init__(self):
        super().__init__()
        self.bytes, self.operators = 0, []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        read, written = tensors(arguments, options), tensors(result)
        name = function.overloadpacket.__name__
        own = {tensor.untyped_storage()._cdata for tensor in read}
        view = function.is_view or (
            name in {"_reshape_alias", "_unsafe_view"} and all(t.untyped_storage()._cdata in own for t in written)
        )
        if not view and name not in ALLOCATIONS:
            self.operators.append(name)
            seen = {id(tensor): tensor for tensor in [*read, *written]}  # in place: read and written
            in_place = [tensor for tensor in written if any(tensor is other for other in read)]
            self.bytes += sum(map(bytes_of, seen.values())) + sum(map(bytes_of, in_place))
        return result


class Peak(TorchDispatchMode):
    """Follows the bytes of all storages that are alive."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.alive = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in tensors(result):
            self.hold(tensor.untyped_storage())
        return result

    def hold(self, storage):
        if storage._cdata not in self.alive:
            self.alive.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())

    def free(self, which, size):
        self.alive.discard(which)
        self.now -= size
