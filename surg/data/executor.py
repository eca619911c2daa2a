"""Work per clip: a pure function `item -> row`, run over many items on this machine's cores or on a Ray cluster.

Rows go to part files as they come and to one Parquet table at the end, so that a killed run goes on where it stopped.
An item that fails is listed with its error; the others go on.
"""

import contextlib
import ctypes
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from surg.advice import quoted
from surg.errors import ConfigError, DataError, RunError
from surg.runs import atomic_file, write_text

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Row = dict[str, Any]
Engine = Literal["local", "ray"]
Outcome = tuple[str, "list[Row] | None", str]

# A part is written after so many items or seconds, whichever is first: at most that much work is lost.
PART_ITEMS = 256
PART_SECONDS = 30.0
LOG_SECONDS = 30.0
OTHER_KINDS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx")
PR_SET_PDEATHSIG = 1
# What a worker gets to remove its half-written file.
GRACE_SECONDS = 5.0


@dataclass
class Report:
    done: int = 0
    """Items whose rows are in the table, those of an earlier, interrupted run included."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(key, error) of every item that failed. They are tried again when the command runs again."""

    @property
    def failed_share(self) -> float:
        return len(self.failed) / max(1, self.done + len(self.failed))


def item_key(item: object) -> str:
    """A stable name of an item that tells no file name: the hash of its contents."""
    if isinstance(item, str | int):
        return str(item)
    value = asdict(item) if is_dataclass(item) and not isinstance(item, type) else item
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def run(
    function: Callable[[Item], Row | list[Row] | None],
    items: Iterable[Item],
    out: Path,
    engine: Engine = "local",
    workers: int | None = None,
    resume: bool = True,
    key: Callable[[Item], str] = item_key,
    *,
    address: str | None = None,
    total: int | None = None,
) -> Report:
    """Apply `function` to every item; write its rows, each with its item's `key`, to the Parquet table `out`.

    `function` must be picklable (a module-level function or functools.partial of one) and may return a row, several or None.
    Rows stand in the table in the order of the items. Until the end they are kept in the folder `OUT.parts`.
    Raises DataError when every single item failed.
    """
    _make_folder(Path(out).parent)
    parts = Parts(Path(out))
    if not resume:
        parts.forget()
    finished = parts.keys()
    order: list[str] = []
    report = Report()

    def todo() -> Iterator[tuple[str, Item]]:
        seen: set[str] = set()
        for item in items:
            name = key(item)
            if name in seen:
                raise DataError(f"Two items share the key {name}; every item needs its own, or rows would be lost.")
            seen.add(name)
            order.append(name)
            if name not in finished:
                yield name, item

    if total is None and isinstance(items, Sized):
        total = len(items)
    # Keys hold settings too: what others left is done, but not for this run.
    kept = sum(key(item) in finished for item in items) if finished and isinstance(items, Sized) else len(finished)
    # Closed at once when we are interrupted: an exception keeps its frames, and with them the workers, until the very end.
    with (
        Progress(total, kept) as progress,
        contextlib.closing(_engine(engine, workers, address)(function, todo())) as outcomes,
    ):
        try:
            for name, rows, error in outcomes:
                if rows is None:
                    report.failed.append((name, error))
                    logger.debug("item %s failed: %s", name, error)
                else:
                    parts.add(name, rows)
                    kept += 1
                progress.step(failed=rows is None)
        except KeyboardInterrupt as stopped:
            parts.flush()
            if resume and kept:
                of = f" of {total}" if total else ""
                stopped.add_note(f"{kept}{of} are done and kept in {parts.folder}; the same command goes on from there.")
            elif not resume:
                parts.forget()
            raise
        parts.flush()
    report.done = sum(name in parts.written for name in order)
    report.failed.sort()
    if report.failed and not report.done:
        raise DataError(f"All {len(report.failed)} items failed. The first: {report.failed[0][1]}")
    parts.join(order)
    return report


def _make_folder(folder: Path) -> None:
    """Before any work; each item would stumble over it by itself."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise RunError(f"{folder} is a file; a folder is needed. Choose another --out.") from error
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror or error}. Choose another --out.") from error


def check_table_name(out: Path) -> None:
    """Raise RunError for a folder, and for a name that says another kind of file: before any work."""
    if out.is_dir():
        raise RunError(
            f"{out} is a folder; the table needs the name of a file. For example --out {quoted(out / 'table.parquet')}"
        )
    if out.suffix.lower() in OTHER_KINDS:
        raise RunError(
            f"{out} would be a Parquet table, and its name says {out.suffix}. Name it so: --out {quoted(out.with_suffix('.parquet'))}\n"
            "pandas.read_parquet reads it, and to_csv makes a CSV file of it."
        )


class Parts:
    """The rows so far, in a folder beside the result; each part file is whole or absent."""

    def __init__(self, out: Path) -> None:
        check_table_name(out)
        self.out = out
        self.folder = out.with_name(out.name + ".parts")
        self.written: set[str] = set()
        self._rows: list[Row] = []
        self._names: list[str] = []
        self._last = time.monotonic()

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.out.unlink(missing_ok=True)

    def keys(self) -> set[str]:
        """Keys of items whose rows are on disk already, in parts or in the finished table."""
        if self.out.exists() and not self.folder.exists():
            self.folder.mkdir(parents=True)
            with pq.ParquetFile(self.out) as table:
                names = json.loads((table.schema_arrow.metadata or {}).get(b"surg.keys", b"[]"))
            shutil.copyfile(self.out, self.folder / "part-000000.parquet")
            write_text(self.folder / "part-000000.json", json.dumps(names))
        for file in sorted(self.folder.glob("part-*.json")):
            self.written.update(json.loads(file.read_text()))
        return set(self.written)

    def add(self, name: str, rows: list[Row]) -> None:
        self._rows.extend({"key": name, **row} for row in rows)
        self._names.append(name)
        if len(self._names) >= PART_ITEMS or time.monotonic() - self._last > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._last = time.monotonic()
        if not self._names:
            return
        stem = self.folder / f"part-{len(list(self.folder.glob('part-*.json'))):06d}"
        # A run that was killed between the two files of this part left rows that nobody counted.
        stem.with_suffix(".parquet").unlink(missing_ok=True)
        if self._rows:
            with atomic_file(stem.with_suffix(".parquet")) as file:
                pq.write_table(pa.Table.from_pylist(self._rows, schema=_schema_of(self._rows)), file)
        # The list of names comes last: a part counts only when its rows are safe.
        with atomic_file(stem.with_suffix(".json"), "w") as file:
            json.dump(self._names, file)
        self.written.update(self._names)
        self._rows, self._names = [], []

    def join(self, order: list[str]) -> None:
        """One table of all parts, rows in the order of the items; then the parts go."""
        tables = [
            pq.read_table(file) for file in sorted(self.folder.glob("part-*.parquet")) if file.with_suffix(".json").exists()
        ]
        table = (
            pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({"key": pa.array([], pa.string())})
        )
        rank = {name: index for index, name in enumerate(order)}
        ranks = pa.array([rank.get(name, -1) for name in table.column("key").to_pylist()], pa.int64())
        table = table.append_column("_rank", ranks).sort_by("_rank")
        table = table.filter(pc.greater_equal(table.column("_rank"), 0)).drop_columns(["_rank"])
        table = table.replace_schema_metadata({"surg.keys": json.dumps([name for name in order if name in self.written])})
        with atomic_file(self.out) as file:
            pq.write_table(table, file, compression="zstd")
        shutil.rmtree(self.folder, ignore_errors=True)


class Progress:
    """A bar with the time left on a terminal, a log line every half minute elsewhere."""

    def __init__(self, total: int | None, done: int) -> None:
        self.total, self.count, self.failures = total, done, 0
        self._fresh = 0
        self._began = self._logged = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self.count:
            logger.info("%d items are done already; going on with the others", self.count)
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=self.total, completed=self.count, failed="")
            self._bar.start()
        return self

    def step(self, *, failed: bool) -> None:
        self.count += 1
        self._fresh += 1
        self.failures += failed
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.count, failed=f"{self.failures} failed" if self.failures else "")
        elif now - self._logged > LOG_SECONDS:
            self._logged = now
            rate = self._fresh / (now - self._began)
            left = f"  eta {(self.total - self.count) / rate / 60:.0f} min" if self.total else ""
            logger.info("%d of %s items  %.2f/s%s  %d failed", self.count, self.total or "?", rate, left, self.failures)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _schema_of(rows: list[Row]) -> pa.Schema:
    """Columns of all rows, not only of the first; a column that is missing in a row is null there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([pa.field(name, pa.array([row.get(name) for row in rows]).type) for name in names])


def attempt(function: Callable[[Any], Any], name: str, item: Any) -> Outcome:
    """One item; whatever goes wrong in it becomes text, so that the others go on."""
    try:
        result = function(item)
    except Exception as error:  # noqa: BLE001 - counted and listed in the report
        return name, None, f"{type(error).__name__}: {error}"
    rows = [result] if isinstance(result, dict) else list(result or [])
    return name, rows, ""


def _engine(
    engine: Engine, workers: int | None, address: str | None
) -> Callable[[Any, Iterator[tuple[str, Any]]], Generator[Outcome]]:
    count = (
        workers
        if workers is not None
        else len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
    if count < 1:
        raise ConfigError(f"{count} workers cannot work; expected 1 or more.")
    if engine == "ray":
        from surg.data.ray_engine import run_on_ray

        return lambda function, items: run_on_ray(function, items, workers=workers, address=address)
    if engine != "local":
        raise ConfigError(f"There is no engine `{engine}`; expected local or ray.")
    if count == 1:
        return lambda function, items: (attempt(function, name, item) for name, item in items)
    return lambda function, items: _run_in_processes(function, items, count)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with us: what is in their hands when we are interrupted is given up, not worked off."""
    before = set(multiprocessing.active_children())
    # spawn: a forked child of a process with threads (Arrow, OpenCV, torch) can hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_ready)
    try:
        yield pool
    except BaseException:
        ours = set(multiprocessing.active_children()) - before
        for worker in ours:
            worker.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in ours:
            worker.join(max(0.0, deadline - time.monotonic()))
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Ctrl-C waits; a process that starts in the meantime never hears it. It reaches the whole group, and we alone answer it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _ready() -> None:
    """In a worker: SIGTERM ends it as an exception would, so that no half-written file is left; it comes too when we are killed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Linux only. Elsewhere a worker of a killed command stays until it is ended by hand.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _in_worker(function: Callable[[Any], Any], name: str, item: Any) -> Outcome:
    try:
        return attempt(function, name, item)
    except SystemExit:
        # The pool would take it for an answer and go on to the next item.
        os._exit(128 + signal.SIGTERM)


def _run_in_processes(function: Callable[[Any], Any], items: Iterator[tuple[str, Any]], workers: int) -> Generator[Outcome]:
    suspects: list[tuple[str, Any]] = []
    waiting: list[tuple[str, Any]] = []
    while True:
        running: dict[Future[Outcome], tuple[str, Any]] = {}
        with _pool(workers) as pool:
            try:
                while True:
                    waiting += islice(items, 4 * workers - len(running) - len(waiting))
                    # One that a pool, broken in the meantime, did not take stays for the next pool.
                    while waiting:
                        with _unheard():
                            running[pool.submit(_in_worker, function, *waiting[0])] = waiting[0]
                        waiting.pop(0)
                    if not running:
                        return
                    ready, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ready:
                        outcome = future.result()
                        del running[future]
                        yield outcome
            except BrokenProcessPool:
                # A worker died (out of memory, a native crash) and took the pool along: each suspect gets its own process.
                suspects = list(running.values())
        for name, item in suspects:
            yield _alone(function, name, item)


def _alone(function: Callable[[Any], Any], name: str, item: Any) -> Outcome:
    with _pool(1) as pool:
        with contextlib.suppress(BrokenProcessPool):
            with _unheard():
                future = pool.submit(_in_worker, function, name, item)
            return future.result()
        return name, None, "the worker process died (out of memory, or a crash in native code)"
