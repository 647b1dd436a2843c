"""Stretches of steps that are launched as a whole: captured once, replayed from then on."""

from __future__ import annotations

from collections.abc import Callable

from .device import Device, Graph

Stretch = Callable[[], None]


class Graphs:
    """What a program calls its stretches through.

    A stretch touches the arena alone, never the caller's tensors, so that its addresses are those of the
    capture at every run. The first call runs it, so that kernels are compiled and libraries take their
    workspaces; the second captures it. One that cannot be captured is run as it is; `refused` names those.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._graphs: dict[Stretch, Graph | None] = {}
        self._warm: set[Stretch] = set()
        self.refused: list[str] = []

    def replay(self, stretch: Stretch) -> None:
        """Put the stretch into the compute stream, by whichever way is the quickest."""
        graph = self._graphs.get(stretch)
        if graph is not None:
            graph.replay()
        elif stretch in self._graphs:
            stretch()
        elif stretch not in self._warm:
            stretch()
            self._warm.add(stretch)
        else:
            graph = self._graphs[stretch] = self._device.capture(stretch)
            if graph is None:
                self.refused.append(stretch.__name__)
                stretch()
            else:
                graph.replay()

    def close(self) -> None:
        """Let go of the captured work, none of which may be under way."""
        self._graphs.clear()
        self._warm.clear()
