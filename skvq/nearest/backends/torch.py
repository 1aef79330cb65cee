"""The PyTorch backend: its own search for few of many, and sums by index on the CPU."""

from typing import Any

import numpy as np

from skvq.nearest.backends.arrays import array_namespace
from skvq.nearest.backends.base import TILE_ELEMENTS, Backend


class TorchBackend(Backend):
    """PyTorch on one of its devices."""

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Return whether the library raises this error when it runs out of memory."""
        return isinstance(error, MemoryError | self.xp.OutOfMemoryError)

    def tile_elements(self) -> int:
        """Return how many numbers a tile may have."""
        if self.device.type != "cuda":
            return TILE_ELEMENTS
        free, _ = self.xp.cuda.mem_get_info(self.device)
        return int(min(2**27, max(TILE_ELEMENTS, free // 64)))

    def release(self) -> None:
        """Free the memory that the library keeps for itself."""
        if self.device.type == "cuda":
            self.xp.cuda.empty_cache()

    def code_dtype(self, dtype: Any) -> np.dtype:
        """Return the dtype, or the next wider signed one.

        torch cannot compute with its uint16 and uint32.
        """
        return np.dtype(_COMPUTED_IN.get(np.dtype(dtype).name, dtype))

    def to_host(self, array: Any) -> Any:
        """Return an array of the library as a NumPy array."""
        if array.dtype == self.xp.bfloat16:  # NumPy does not have it
            array = array.float()
        return array.detach().cpu().numpy()

    def remedy(self, array: Any, name: str) -> str:
        """Return advice, for messages, about an array that NumPy cannot read."""
        calls = {
            ".detach()": array.requires_grad,
            ".cpu()": array.device.type != "cpu",
            ".float()": array.dtype == self.xp.bfloat16,
        }
        needed = "".join(call for call, needs in calls.items() if needs)
        return f"give {name}{needed}" if needed else super().remedy(array, name)

    def contiguous(self, array: Any) -> Any:
        """Return an array whose rows are consecutive in memory."""
        return array.contiguous()

    def smallest_few(self, scores: Any, k: int) -> Any:
        """Return the indices of the k smallest entries of each row, ascending."""
        if k == 1:
            return self.argmin(scores)[:, None]
        places = self.xp.topk(scores, k, dim=1, largest=False, sorted=False).indices
        # torch decides which of several equal entries are among the k; sort those.
        places = self.xp.sort(places, axis=1)
        order = self.stable_order(self.take_along(scores, places))
        return self.take_along(places, order)

    def cell_sums(
        self, X: Any, codes: Any, n_codewords: int, weights: Any
    ) -> tuple[Any, ...]:
        """Return sums (n_codewords, d) and counts (n_codewords,) of rows by code."""
        if self.device.type != "cpu":
            return super().cell_sums(X, codes, n_codewords, weights)
        result = self.zeros((n_codewords, X.shape[1] + 1))

        def work(rows: slice) -> None:
            result.index_add_(0, codes[rows], self.weighted_rows(X, weights, rows))

        for _ in self.tiles(X.shape[0], X.shape[1] + 1, work):
            pass
        return result[:, :-1], result[:, -1]


_COMPUTED_IN = {"uint16": "int32", "uint32": "int64"}


def backend_of(array: Any) -> TorchBackend:
    """Return the backend of a tensor."""
    return TorchBackend(array_namespace(array), array.device)
