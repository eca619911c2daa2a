"""System shared memory for a server on the same machine: pixels are written once and read by the server where they lie.

A region's name is removed from /dev/shm as soon as the server has it mapped. So a client that is killed leaves no file behind; the
memory goes when the server drops the mapping, which the next client asks it to do for clients that are gone.
"""

import contextlib
import logging
import mmap
import os
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from surg.serving.contract import Array

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
LEAST_BYTES = 64 * 1024
"""Smaller inputs travel in the request: the copy costs less than the bookkeeping."""
GRAIN = 1 << 20
"""Regions grow in these steps, so that clips of one size always fit a region used before."""


@dataclass
class Region:
    name: str
    size: int
    memory: mmap.mmap


@dataclass
class Lease:
    """A region in use by one request; `places` says where each input lies: (offset, bytes)."""

    region: Region
    places: dict[str, tuple[int, int]] = field(default_factory=dict)


_ALIVE: "dict[int, weakref.ref[SharedInputs]]" = {}
"""The pools of this process, whose regions are in use. No WeakSet: its iteration fails when another thread adds to it."""


class SharedInputs:
    """A pool of regions registered with one server. Falls back to the wire for good when the server refuses them."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._free: list[Region] = []
        self._all: list[Region] = []
        self._abandoned: list[Region] = []
        self._lock = threading.Lock()
        self._usable = True
        self._swept = False
        self._process = os.getpid()
        self._making: set[str] = set()
        key = id(self)
        _ALIVE[key] = weakref.ref(self, lambda _: _ALIVE.pop(key, None))

    def put(self, inputs: Mapping[str, Array]) -> Lease | None:
        """Copy the large inputs into a region. None means: send them in the request."""
        self._leave_to_parent()
        large = {name: array for name, array in inputs.items() if array.nbytes >= LEAST_BYTES and array.dtype != object}
        if not large or not self._usable:
            return None
        region = self._take(sum(-(-array.nbytes // 64) * 64 for array in large.values()))
        if region is None:
            return None
        lease, offset = Lease(region), 0
        for name, array in large.items():
            target = np.frombuffer(region.memory, array.dtype, array.size, offset).reshape(array.shape)
            np.copyto(target, array)
            lease.places[name] = (offset, array.nbytes)
            offset += -(-array.nbytes // 64) * 64
        return lease

    def give_back(self, lease: Lease) -> None:
        with self._lock:
            if lease.region in self._all:
                self._free.append(lease.region)

    def discard(self, lease: Lease) -> None:
        """Do not lend this region again: an abandoned request may still be reading it. The server is told later to let it go."""
        with self._lock:
            if lease.region in self._all:
                self._all.remove(lease.region)
                self._abandoned.append(lease.region)

    def forget(self) -> None:
        """The server has lost its registrations."""
        with self._lock:
            self._free, self._all, self._abandoned = [], [], []

    def close(self) -> None:
        from tritonclient.utils import InferenceServerException

        self._leave_to_parent()
        with self._lock:
            regions, self._all, self._free, self._usable = [*self._all, *self._abandoned], [], [], False
            self._abandoned = []
        for region in regions:
            with contextlib.suppress(InferenceServerException):  # gone with the server
                self._client.unregister_system_shared_memory(region.name, client_timeout=2)

    def _holds(self, name: str) -> bool:
        with self._lock:
            return name in self._making or any(region.name == name for region in [*self._all, *self._abandoned])

    def _leave_to_parent(self) -> None:
        """After a fork the regions are the parent's: memory that is mapped stays one, and each would send the other's pixels."""
        if self._process != os.getpid():
            self._process, self._lock = os.getpid(), threading.Lock()
            self.forget()

    def _take(self, size: int) -> Region | None:
        with self._lock:
            for region in self._free:
                if region.size >= size:
                    self._free.remove(region)
                    return region
        return self._make(-(-size // GRAIN) * GRAIN)

    def _make(self, size: int) -> Region | None:
        from tritonclient.utils import InferenceServerException

        self._sweep_once()
        self._sweep_abandoned()
        name = f"{prefix()}{os.getpid()}_{uuid.uuid4().hex[:12]}"
        path = FOLDER / name
        self._making.add(name)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                # Reserves the pages: a full /dev/shm is an error here and not a bus error later.
                os.posix_fallocate(handle, 0, size)
                region = Region(name, size, mmap.mmap(handle, size))
            finally:
                os.close(handle)
            self._client.register_system_shared_memory(name, f"/{name}", size, client_timeout=5)
        except (OSError, InferenceServerException) as error:
            # Another machine, another container, switched off on the server, or no room: the wire works everywhere.
            logger.debug("no shared memory with this server (%s); sending inputs in the request", error)
            self._usable = False
            return None
        finally:
            path.unlink(missing_ok=True)
        with self._lock:
            self._all.append(region)
            self._making.discard(name)
        return region

    def _sweep_abandoned(self) -> None:
        """Have the server drop the regions of requests that ran out of time; it refuses while it still reads one."""
        from tritonclient.utils import InferenceServerException

        with self._lock:
            regions, self._abandoned = self._abandoned, []
        until = time.monotonic() + 2  # all together: the request that waits for this has a deadline
        for region in regions:
            try:
                if (left := until - time.monotonic()) <= 0:
                    raise InferenceServerException("later")
                self._client.unregister_system_shared_memory(region.name, client_timeout=left)
            except InferenceServerException:
                with self._lock:
                    self._abandoned.append(region)

    def _sweep_once(self) -> None:
        """Have the server drop regions of clients on this machine that no longer exist: those of processes that are gone, and those of
        this process whose client was let go without being closed."""
        from tritonclient.utils import InferenceServerException

        if self._swept:
            return
        self._swept = True
        with contextlib.suppress(InferenceServerException):
            for name in list(self._client.get_system_shared_memory_status(client_timeout=2).regions):
                owner = name.removeprefix(prefix()).split("_")[0]
                if not name.startswith(prefix()) or not owner.isdigit():
                    continue
                alive = [shared for known in list(_ALIVE.values()) if (shared := known()) is not None]
                lost = owner == str(os.getpid()) and not any(shared._holds(name) for shared in alive)
                if lost or not Path(f"/proc/{owner}").exists():
                    self._client.unregister_system_shared_memory(name, client_timeout=2)


def prefix() -> str:
    """Start of our region names: process ids mean something within one process namespace only."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]")
    except OSError:
        namespace = "0"
    return f"surgc_{int(namespace):x}_"


def can_share(host: str) -> bool:
    """Worth trying: the server is reached over loopback and this system has POSIX shared memory."""
    name = host.rpartition(":")[0].strip("[]")
    return FOLDER.is_dir() and (name in ("localhost", "::1") or name.startswith("127."))
