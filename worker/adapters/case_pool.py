"""Several child processes, so that one case is read and another written while a third infers.

Processes and not threads: reading runs under a memory limit that is the whole process's, a crash
in a decoder or in the network takes one case and nobody else's, and no lock of the interpreter
stands between them. Only the network needs the device, and one at a time has it (`DeviceTurn`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from worker.adapters.case_process import CaseProcess
from worker.adapters.device_turn import DeviceTurn
from worker.core.errors import EngineNotStarting
from worker.core.job import Case, CaseResult
from worker.ports import OnProgress, OnWait, no_wait

logger = logging.getLogger(__name__)

# How often a case that waits for a process looks for one that has become free.
_LOOK_S = 0.1

MakeProcess = Callable[[str, DeviceTurn], CaseProcess]


class CasePool:
    """`ports.CaseRunner` over processes on one device or several.

    Parameters
    ----------
    make : callable
        Makes, but does not start, a process for a device.
    devices : sequence of str
        In the words of the settings. A lone ``auto`` becomes every GPU once the first child knows
        how many there are.
    processes_on : callable
        Gives how many processes share a device.
    """

    def __init__(
        self,
        make: MakeProcess,
        devices: Sequence[str],
        processes_on: Callable[[str], int],
    ) -> None:
        self._make = make
        self._processes_on = processes_on
        self._names = tuple(devices)
        self._turns = [DeviceTurn() for _ in devices]
        # The first of each device come first: a second one on a device helps less.
        self._processes = [
            make(name, turn) for name, turn in zip(devices, self._turns, strict=True)
        ]
        # By the folder of a run, not by the request: one that was lost and taken again can be here
        # twice for a moment.
        self._runs: dict[Path, CaseProcess] = {}
        self._warm_model: str | None = None
        self._is_grown = False
        self._changed = threading.Condition()

    @property
    def device(self) -> str:
        """The devices in torch's words, empty before the first child is ready."""
        first = self._processes[0].device
        return ",".join(self._names) if first and len(self._names) > 1 else first

    @property
    def device_report(self) -> dict[str, Any]:
        """What the first child found of its device."""
        return self._processes[0].device_report

    @property
    def devices(self) -> int:
        """How many networks can run at the same time."""
        return len(self._turns)

    def start(self) -> None:
        """Start one child for each device where none is alive, without waiting for them."""
        for process in self._firsts():
            process.start()

    def wait_ready(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Wait for the first child of each device, then make room for the others.

        Raises
        ------
        EngineNotStarting
            One of them ended, said so, or took too long.
        """
        first = self._processes[0]
        first.wait_ready(give_up)
        if not first.device:
            return
        self._grow(first)
        for process in self._firsts():
            process.start()
            process.wait_ready(give_up)

    def keep_warm(self, model: str) -> None:
        """Load `model` into every child, now or as it starts."""
        self._warm_model = model
        for process in self._processes:
            process.keep_warm(model)

    def run(self, case: Case, *, on_progress: OnProgress, on_wait: OnWait = no_wait) -> CaseResult:
        """Segment a case in the first process that is free, and wait for its end.

        Raises
        ------
        WorkerError
            As `CaseProcess.run`.
        """
        while True:
            process = self._take(case.output_dir, on_wait)
            try:
                return process.run(case, on_progress=on_progress, on_wait=on_wait)
            except EngineNotStarting as error:
                if not self._retire(process, error):
                    raise
            finally:
                self._give_back(case.output_dir)

    def interrupt(self, output_dir: Path) -> None:
        """End the child of one run; the others go on."""
        process = self._runs.get(output_dir)
        if process is not None:
            process.interrupt()

    def kill(self) -> None:
        """End every child, at once; safe from any thread."""
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """Let idle children end; kill those that do not."""
        for process in self._processes:
            process.close()

    def _firsts(self) -> list[CaseProcess]:
        return self._processes[: len(self._turns)]

    def _grow(self, first: CaseProcess) -> None:
        """Add the processes that the device, known now, has use for; they start when needed."""
        with self._changed:
            if self._is_grown:
                return
            self._is_grown = True
            count = int(first.device_report.get("devices", 1))
            if self._names == ("auto",) and first.device.startswith("cuda") and count > 1:
                self._names = (first.device, *(f"cuda:{index}" for index in range(1, count)))
                self._turns += [DeviceTurn() for _ in range(1, count)]
                self._add([0] + [1] * (count - 1))
            kinds = [first.device if name == "auto" else name for name in self._names]
            self._add([self._processes_on(kind) - 1 for kind in kinds])

    def _add(self, numbers: Sequence[int]) -> None:
        """Add so many processes for each device, one of each in turn."""
        for round_ in range(max(numbers)):
            for name, turn, number in zip(self._names, self._turns, numbers, strict=True):
                if round_ < number:
                    self._processes.append(self._make(name, turn))
                    turn.processes += int(len(self._processes) > len(self._turns))
                    if self._warm_model is not None:
                        self._processes[-1].keep_warm(self._warm_model)

    def _take(self, output_dir: Path, on_wait: OnWait) -> CaseProcess:
        """Wait for a process that is up and free; start another one if none is."""
        begun: CaseProcess | None = None
        while True:
            with self._changed:
                idle = self._idle()
                process = self._best(idle)
                if process is None and begun in idle and not begun.is_starting():
                    process = begun  # it did not come up, and says why when it is used
                if process is not None:
                    self._runs[output_dir] = process
                    return process
                if idle and not any(item.is_starting() for item in idle):
                    begun = idle[0]
                    begun.start()
                self._changed.wait(_LOOK_S)
            on_wait()

    def _idle(self) -> list[CaseProcess]:
        taken = list(self._runs.values())
        return [process for process in self._processes if process not in taken]

    def _best(self, idle: Sequence[CaseProcess]) -> CaseProcess | None:
        """Choose one that is up, on the device with the fewest cases."""
        up = [process for process in idle if process.is_started()]
        return min(up, key=lambda item: self._cases_on(item.device_turn)) if up else None

    def _cases_on(self, turn: DeviceTurn) -> int:
        return sum(process.device_turn is turn for process in self._runs.values())

    def _give_back(self, output_dir: Path) -> None:
        with self._changed:
            self._runs.pop(output_dir, None)
            self._changed.notify_all()

    def _retire(self, process: CaseProcess, error: EngineNotStarting) -> bool:
        """Go on without a further process that does not start: the first ones are enough."""
        with self._changed:
            if process in self._firsts() or process not in self._processes:
                return False
            self._processes.remove(process)
        logger.warning("further_process_not_started", extra={"reason": error.message})
        process.close()
        return True
