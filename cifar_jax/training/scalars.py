"""Numbers for TensorBoard, written by the caller's own thread.

tensorboardX's SummaryWriter writes in a thread that a full disk kills without a word;
the run would then wait for it without end.
"""

import contextlib
import os
import pathlib
import socket
import time
from collections.abc import Mapping

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter


class Scalars:
    """An event file.

    Args:
      folder: Where it lies; made if need be.
      purge_step: What other files of the folder have from this step on is not shown.
    """

    def __init__(self, folder: os.PathLike, *, purge_step: int):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._writer = RecordWriter(os.path.join(folder, name))
        self._write(Event(step=purge_step, file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=purge_step, session_log=start))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step, by their tags.

        Raises:
          OSError: If they cannot be written.
        """
        for tag, value in values.items():
            self._write(Event(step=step, summary=summary.scalar(tag, value)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file; what could not be written has been reported."""
        with contextlib.suppress(OSError):
            self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
