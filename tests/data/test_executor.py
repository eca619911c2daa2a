"""The executor: same rows on one core, on several and on Ray; errors are collected; a killed run goes on."""

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from surg.data import executor
from surg.data.executor import Parts, run
from surg.data.manifest import Clip
from surg.errors import ConfigError, DataError, RunError


def square(number: int) -> dict[str, Any]:
    return {"number": number, "square": number * number, "vector": np.arange(3) * number}


def fragile(number: int) -> dict[str, Any]:
    if number % 5 == 3:
        raise ValueError(f"{number} is not to my taste")
    return {"number": number}


def deadly(number: int) -> dict[str, Any]:
    if number == 4:
        os._exit(9)
    return {"number": number}


def several(number: int) -> list[dict[str, Any]]:
    return [{"part": part, "extra": part} if part else {"part": part} for part in range(number)]


def counted(number: int, log: Path) -> dict[str, Any]:
    with log.open("a") as file:
        file.write(f"{number}\n")
    return {"number": number}


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_come_in_the_order_of_the_items(workers: int, tmp_path: Path) -> None:
    report = run(square, range(20), tmp_path / "o.parquet", workers=workers)
    assert (report.done, report.failed) == (20, [])
    expected = [{"key": str(n), "number": n, "square": n * n, "vector": [0, n, 2 * n]} for n in range(20)]
    assert rows(tmp_path / "o.parquet") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["o.parquet"]


def test_an_item_may_give_several_rows_or_none_and_columns_may_differ(tmp_path: Path) -> None:
    report = run(several, [0, 1, 3], tmp_path / "o.parquet", workers=1)
    assert report.done == 3
    assert [(row["key"], row["part"], row["extra"]) for row in rows(tmp_path / "o.parquet")] == [
        ("1", 0, None),
        ("3", 0, None),
        ("3", 1, 1),
        ("3", 2, 2),
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_failed_items_are_listed_with_their_error_and_the_others_go_on(workers: int, tmp_path: Path) -> None:
    report = run(fragile, range(10), tmp_path / "o.parquet", workers=workers)
    assert report.failed == [("3", "ValueError: 3 is not to my taste"), ("8", "ValueError: 8 is not to my taste")]
    assert [row["number"] for row in rows(tmp_path / "o.parquet")] == [0, 1, 2, 4, 5, 6, 7, 9]
    assert report.failed_share == 0.2


def test_a_worker_that_dies_takes_only_its_item_along(tmp_path: Path) -> None:
    report = run(deadly, range(8), tmp_path / "o.parquet", workers=2)
    assert [key for key, _ in report.failed] == ["4"]
    assert "worker process died" in report.failed[0][1]
    assert [row["number"] for row in rows(tmp_path / "o.parquet")] == [0, 1, 2, 3, 5, 6, 7]


def test_when_everything_fails_the_command_fails(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"All 2 items failed\. The first: ValueError: 3"):
        run(fragile, [3, 8], tmp_path / "o.parquet", workers=1)


def test_a_file_where_a_folder_is_needed_is_said_before_the_first_item(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RunError, match="is a file; a folder is needed"):
        run(fragile, [3, 8], tmp_path / "out" / "o.parquet", workers=1)


def test_a_folder_where_the_table_is_to_be_written_is_said_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for resume in (True, False):
        with pytest.raises(RunError, match="is a folder"):
            run(square, range(3), tmp_path / "out", workers=1, resume=resume)
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_what_is_done_is_not_done_again_unless_asked(tmp_path: Path) -> None:
    from functools import partial

    log = tmp_path / "log"
    out = tmp_path / "o.parquet"
    run(partial(counted, log=log), range(4), out, workers=1)
    run(partial(counted, log=log), range(6), out, workers=1)
    assert log.read_text().split() == ["0", "1", "2", "3", "4", "5"]
    assert [row["number"] for row in rows(out)] == list(range(6))
    run(partial(counted, log=log), range(2), out, workers=1, resume=False)
    assert log.read_text().split()[6:] == ["0", "1"]
    assert [row["number"] for row in rows(out)] == [0, 1]


def test_what_other_settings_left_is_not_said_to_be_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for setting, said in (("a", 0), ("b", 0), ("b", 3)):
        caplog.clear()
        run(square, range(1, 4), tmp_path / "rows.parquet", workers=1, key=lambda item, setting=setting: f"{item} {setting}")
        assert ("3 items are done already" in caplog.text) == bool(said)


KILLED = """
import sys, time
from pathlib import Path
import surg.data.executor as executor
executor.PART_ITEMS = 2
def slow(number):
    if number >= 6:
        print("there", flush=True)
        time.sleep(60)
    with open(sys.argv[2], "a") as file:
        file.write(f"{number}\\n")
    return {"number": number}
executor.run(slow, range(8), Path(sys.argv[1]), workers=1)
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    from functools import partial

    out, log = tmp_path / "o.parquet", tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out), str(log)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    process.kill()
    process.communicate()
    assert not out.exists()
    report = run(partial(counted, log=log), range(8), out, workers=1)
    assert report.done == 8
    assert log.read_text().split() == [str(n) for n in range(8)]
    assert [row["number"] for row in rows(out)] == list(range(8))


def test_clips_have_keys_that_tell_no_file_name(tmp_path: Path) -> None:
    clips = [Clip("/secret/patient.mp4", 0, n + 1, "c") for n in range(2)]
    run(length, clips, tmp_path / "o.parquet", workers=1)
    table = rows(tmp_path / "o.parquet")
    assert [row["length_s"] for row in table] == [1, 2]
    assert len({row["key"] for row in table}) == 2
    assert "patient" not in "".join(row["key"] for row in table)


def length(clip: Clip) -> dict[str, Any]:
    return {"length_s": clip.end_s - clip.start_s}


def test_two_items_of_one_key_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="share the key 1"):
        run(square, [1, 2, 1], tmp_path / "o.parquet", workers=1)


def test_impossible_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 workers"):
        run(square, [1], tmp_path / "o.parquet", workers=0)
    with pytest.raises(ConfigError, match="no engine `slurm`"):
        run(square, [1], tmp_path / "o.parquet", engine="slurm")


def test_ray_gives_the_same_table_and_the_same_failures(tmp_path: Path) -> None:
    # In a process of its own: Ray leaves threads, sockets and warnings behind.
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from surg.data import executor
from surg.data.executor import Parts, run
from tests.data.test_executor import fragile
report = run(fragile, range(10), Path({str(tmp_path / "ray.parquet")!r}), engine="ray", workers=2)
print(report.done, [key for key, _ in report.failed])
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "RAY_USAGE_STATS_ENABLED": "0"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "8 ['3', '8']", time.monotonic() - began
    run(fragile, range(10), tmp_path / "local.parquet", workers=1)
    assert pq.read_table(tmp_path / "ray.parquet").equals(pq.read_table(tmp_path / "local.parquet"))


def test_a_part_whose_names_were_never_written_gives_no_rows(tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    killed = Parts(out)
    killed.keys()
    killed.folder.mkdir()
    killed.add("1", [{"number": 1}])
    killed.flush()
    # Killed between the two files; the next part at that place is of an item without rows.
    (killed.folder / "part-000000.json").unlink()

    report = run(several, [0, 1], out, workers=1)
    assert (report.done, rows(out)) == (2, [{"key": "1", "part": 0}])

    killed = Parts(out)
    assert killed.keys() == {"0", "1"}
    killed.add("2", [{"part": 9}])
    killed.flush()
    (killed.folder / "part-000001.json").unlink()
    again = Parts(out)
    again.keys()
    again.add("3", [])
    again.flush()
    again.join(["0", "1", "2", "3"])
    assert rows(out) == [{"key": "1", "part": 0}]


def test_items_that_a_breaking_pool_did_not_take_are_done_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(ProcessPoolExecutor):
        taken = 0

        def submit(self, *args: Any, **settings: Any) -> Any:
            Breaking.taken += 1
            if Breaking.taken == 3:
                raise BrokenProcessPool("a child died just now")
            return super().submit(*args, **settings)

    monkeypatch.setattr(executor, "ProcessPoolExecutor", Breaking)
    report = run(square, range(6), tmp_path / "o.parquet", workers=2)
    assert (report.done, report.failed) == (6, [])
    assert [row["number"] for row in rows(tmp_path / "o.parquet")] == list(range(6))
