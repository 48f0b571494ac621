"""The iterator of `train_batches`: grain's threads and workers, and a state that doesn't depend on them.

grain's own state is laid out by its workers, so a run couldn't go on with another number of them. Here the state is the
step. Importing this module imports grain.
"""

from __future__ import annotations

from typing import Any

import grain
import numpy as np


class TrainIterator(grain.DatasetIterator[dict[str, np.ndarray]]):
    """Iterates over a `MapDataset` of batches, from any step.

    Attributes:
        step: Number of the next batch, from 0.
    """

    def __init__(
        self, batches: Any, *, start_step: int, num_threads: int, num_workers: int, run: dict[str, int]
    ) -> None:
        super().__init__()
        self._batches = batches
        self._num_threads = num_threads
        self._num_workers = num_workers
        self._run = run
        self._inner: grain.DatasetIterator | None = None
        self._seek(start_step)

    def __next__(self) -> dict[str, np.ndarray]:
        self._assert_not_closed()
        batch = next(self._running())
        self.step += 1
        return batch

    def __len__(self) -> int:
        """Number of batches from step 0 to the end; astronomical where the run has none."""
        return len(self._batches)

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on after the last batch that was returned; it goes into JSON."""
        return {"step": self.step, **self._run}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where the state was taken.

        Args:
            state: What `get_state` gave of an iterator with the same source, batch size and seed.

        Raises:
            ValueError: If the state belongs to a run of other batches, or to a step beyond the end.
        """
        expected = self.get_state()
        if state.keys() != expected.keys():
            raise ValueError(f"state: got keys {sorted(state)}, expected {sorted(expected)}")
        for name, value in self._run.items():
            if state[name] != value:
                raise ValueError(f"state: got {name} {state[name]}, expected {value}, or the batches would differ")
        self._seek(state["step"])

    def start_prefetch(self) -> None:
        """Starts threads and workers; the first batch does it too."""
        self._running().start_prefetch()

    def close(self) -> None:
        """Ends threads and workers; the iterator can't be used after it."""
        super().close()
        self._stop()

    def _seek(self, step: int) -> None:
        if not 0 <= step <= len(self._batches):
            raise ValueError(f"step: got {step}, expected 0 to {len(self._batches)}")
        self._stop()
        self.step = step

    def _stop(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def _running(self) -> grain.DatasetIterator:
        if self._inner is None:
            self._inner = self._open()
        return self._inner

    def _open(self) -> grain.DatasetIterator:
        # grain's default buffer is 500 elements, and here an element is a batch.
        options = grain.ReadOptions(num_threads=self._num_threads, prefetch_buffer_size=2 * self._num_threads)
        dataset = self._batches[self.step :].to_iter_dataset(options)
        if self._num_workers:
            _mark_flags_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self._num_workers, per_worker_buffer_size=2)
            )
        return dataset.__iter__()


def _mark_flags_as_parsed() -> None:
    """Workers are given the absl flags, and reading them fails in a program that never parsed any."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
