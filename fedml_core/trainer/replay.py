"""Replay: a step on tensors of fixed shapes, recorded as a CUDA graph: carrying it out is one launch instead of hundreds."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from fedml_core import tree
from fedml_core.tree import Tree

log = logging.getLogger("fedml")
WARM_UP = 2


class Recorder(Protocol):
    """What can record the work that a call gives to a device.

    Attributes:
        given_up: whether a recording failed, in which case nothing more is recorded, or replayed.
    """

    given_up: bool

    def warm(self, call: Callable[[], Tree]) -> Tree:
        """Carry `call` out as it is, where it would be recorded."""

    def record(self, call: Callable[[], Tree]) -> tuple[Callable[[], None], Tree] | None:
        """What does the same again, and the tensors it will leave its results in; nothing is carried out. None if it cannot be."""


class Replay:
    """`function(*kept, *given)`, always with the same shapes, recorded at its third call and replayed from then on.

    The `kept` tensors are read and written where they lie; a recording knows them by their addresses, and when these change it is
    dropped and made anew. The `given` ones are copied to where the recording reads. Numbers are recorded for good, so `function`
    takes none. The results are the caller's: copies of what the next replay will overwrite.

    The first calls prepare (libraries choose algorithms, allocate workspaces), and are carried out as they are: in a function that
    writes in place no call may be made only to warm up.
    """

    def __init__(self, function: Callable[..., Tree], recorder: Recorder) -> None:
        self._function, self._recorder = function, recorder
        self._places: tuple[int, ...] = ()
        self._calls = 0
        self._recording: tuple[Callable[[], None], Tree] | None = None
        self._inputs: list[Tensor] = []

    def __call__(self, kept: Sequence[Tensor], given: Sequence[Tensor]) -> Tree:
        places = tuple(part.data_ptr() for part in kept)
        if places != self._places:
            self._places, self._calls, self._recording = places, 0, None
        self._calls += 1
        if self._calls <= WARM_UP and not self._recorder.given_up:
            return self._recorder.warm(lambda: self._function(*kept, *given))
        if self._recording is None and not self._recorder.given_up:
            self._inputs = [part.clone() for part in given]
            self._recording = self._recorder.record(lambda: self._function(*kept, *self._inputs))
        if self._recording is None or self._recorder.given_up:
            return self._function(*kept, *given)
        replay, results = self._recording
        torch._foreach_copy_(self._inputs, list(given))
        replay()
        return tree.map_tensors(torch.clone, results)


class CudaRecorder:
    """Records on one CUDA device, for one thread.

    All recordings share their memory: what one leaves there for itself, nobody reads after another has run. Each is registered with
    the device's default generator, which every replay starts from where `seed_torch` or the last draw has left it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.given_up = device, False
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._last: Callable[[], torch.cuda.CUDAGraph | None] = lambda: None

    def warm(self, call: Callable[[], Tree]) -> Tree:
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            results = call()
        current.wait_stream(self._stream)
        return results

    def record(self, call: Callable[[], Tree]) -> tuple[Callable[[], None], Tree] | None:
        graph, last = torch.cuda.CUDAGraph(), self._last()
        pool = None if last is None else last.pool()
        try:
            # The outer context puts the stream back if the end of the recording fails; another thread may go on meanwhile.
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"),
            ):
                results = call()
        except RuntimeError as error:
            self.given_up = True
            log.warning("training steps are not recorded as CUDA graphs: %s", " ".join(str(error).split())[:300])
            return None
        self._last = weakref.ref(graph)
        return graph.replay, results


@cache
def recorder_of(device: torch.device) -> Recorder | None:
    """The recorder of this device, if it has one."""
    return CudaRecorder(device) if device.type == "cuda" else None
