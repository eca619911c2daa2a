"""Videos of any length: windows where they belong, the same on either side, events in files."""

import json
import runpy
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from surg.cli.infer import _polygon
from surg.data.clips import ClipConfig, frame_times, windows
from surg.data.preprocess import preprocess
from surg.data.video import probe, read_frames, write_video
from surg.errors import ConfigError, ServerError
from surg.serving import inference, stream
from surg.serving.client import Client, connect
from surg.serving.engine import Server
from surg.serving.export import Exported, export_repository
from surg.serving.stream import cuts, mean_change
from tests.serving.conftest import SPEC, make_bundle
from tests.serving.toy import Clock

ZONE = [[0.2, 0.2], [0.7, 0.2], [0.7, 0.8], [0.2, 0.8]]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 s of moving stripes, 25 frames/s."""

    def frames() -> Iterator[np.ndarray]:
        x, y = np.meshgrid(np.arange(160), np.arange(120))
        for time in range(300):
            wave = 127 + 120 * np.sin((x + 3 * time) / 9) * np.cos((y - time) / 7)
            yield np.stack([wave, wave[::-1], 255 - wave], -1).astype(np.uint8)

    path = tmp_path_factory.mktemp("video") / "stripes.mp4"
    write_video(path, frames(), 25)
    return path


def test_windows_are_those_of_the_data_package(video: Path) -> None:
    config = ClipConfig(num_frames=SPEC.num_frames, fps=SPEC.fps, size=SPEC.size)
    found = list(cuts(video, SPEC, ZONE, 1.0))
    assert [cut.end_s for cut in found] == pytest.approx(windows(probe(video).duration_s, config))
    cut = found[3]
    expected = preprocess(read_frames(video, frame_times(cut.end_s, config)), SPEC, ZONE)
    np.testing.assert_array_equal(cut.frames, expected.frames)
    np.testing.assert_array_equal(cut.zone, expected.zone)
    assert cut.box == expected.box


def test_motion_is_how_much_neighbouring_frames_differ() -> None:
    still = np.full((4, 8, 8, 3), 100, np.uint8)
    assert mean_change(still) == 0
    assert mean_change(still[:1]) == 0
    blink = still.copy()
    blink[1::2] += 51
    assert mean_change(blink) == pytest.approx(0.2)


def test_a_stride_below_the_frame_interval_is_kept(video: Path) -> None:
    ends = [cut.end_s for cut in cuts(video, SPEC, None, 0.1)]
    np.testing.assert_allclose(np.diff(ends), 0.1, atol=1e-6)
    with pytest.raises(ConfigError, match="multiple of"):
        next(cuts(video, SPEC, None, 0.0137))


def test_a_video_shorter_than_a_window_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    write_video(path, (np.full((64, 64, 3), 40 * time, np.uint8) for time in range(5)), 10)
    (cut,) = cuts(path, SPEC, None, 1.0)
    assert cut.end_s == pytest.approx(0.5)
    assert cut.frames[0].mean() < cut.frames[-1].mean()


@pytest.mark.triton
def test_the_server_slides_as_the_client_does(client: Client, video: Path) -> None:
    here = list(client.watch(video, ZONE, stride_s=0.5))
    there = list(client.watch(video, ZONE, stride_s=0.5, on_server=True))
    assert [(window.index, window.start_s, window.end_s) for window in here] == [
        (window.index, window.start_s, window.end_s) for window in there
    ]
    for a, b in zip(here, there):
        np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-6)
        assert a.action == b.action
        assert a.motion == b.motion > 0
        assert a.breach == pytest.approx(b.breach, abs=1e-6)


@pytest.mark.triton
def test_windows_further_apart_than_they_are_long_stay_where_they_belong(
    client: Client, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two windows a request: between the second and the third lie frames of the next request."""
    monkeypatch.setattr(stream, "SERVER_FRAMES", 24)
    here, there = (list(client.watch(video, ZONE, stride_s=3.0, on_server=side)) for side in (False, True))
    assert [window.end_s for window in there] == [window.end_s for window in here] == [1.75, 4.75, 7.75, 10.75]
    assert [window.start_s for window in there] == [window.start_s for window in here]
    for a, b in zip(here, there):
        np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-6)


@pytest.mark.triton
def test_the_deadline_of_a_stream_is_each_windows_and_not_that_of_all_together(client: Client) -> None:
    """A large model takes longer over a request's windows than any deadline that is one window's."""
    frames = np.random.default_rng(0).integers(0, 256, (250, SPEC.size, SPEC.size, 3), dtype=np.uint8)
    inputs = {"frames": frames, "zone": np.ones((4, 4), np.float32), "stride": np.ones(1, np.int32)}
    began = monotonic()
    whole = len(list(client.stream("surg_video", inputs)))
    deadline = (monotonic() - began) / 3
    assert whole == 250 - SPEC.num_frames + 1

    def answers() -> int:
        try:
            return len(list(client.stream("surg_video", inputs, timeout_s=deadline)))
        except ServerError:
            return 0  # a machine that stands still for so long does so once; a deadline of all together is missed every time

    assert any(answers() == whole for _ in range(5))


@pytest.mark.triton
def test_what_is_asked_between_two_answers_of_a_stream_does_not_wait_for_its_end(server: Server, frames: np.ndarray) -> None:
    asked: list[object] = []

    def ask() -> None:
        inputs = {
            "frames": frames.reshape(-1, 64, 64, 3),
            "zone": np.ones((4, 4), np.float32),
            "stride": np.array([8], np.int32),
        }
        with connect(server.grpc_url, max_in_flight=1) as client:
            asked.extend(client.clip(frames[0]) for _ in client.stream("surg_video", inputs))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(120)
    assert len(asked) == 3


def test_windows_slid_on_a_gpu_server_come_back_in_memory_that_numpy_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Triton's Python backend: what is asked of a model on the GPU lies on the GPU, unless another memory is preferred."""

    class Tensor:
        def __init__(self, name: str, value: np.ndarray, gpu: bool = False) -> None:
            self.name, self.value, self.gpu = name, value, gpu

        def as_numpy(self) -> np.ndarray:
            assert not self.gpu, "Tensor is stored in GPU and cannot be converted to NumPy."
            return self.value

    class Answered:
        def __init__(self, output_tensors: list[Tensor] | None = None, error: object = None) -> None:
            self.tensors, self.failure = output_tensors or [], error

        def has_error(self) -> bool:
            return self.failure is not None

    class Asked:
        def __init__(self, *, inputs: list[Tensor], preferred_memory: str = "as the model", **_: object) -> None:
            self.inputs, self.gpu = inputs, preferred_memory != "cpu"

        def exec(self) -> Answered:
            return Answered([Tensor("embedding", self.inputs[0].value.mean((1, 2, 3)), self.gpu)])

    def find(holder: Any, name: str) -> Tensor:
        return next(tensor for tensor in holder.tensors if tensor.name == name)

    class Family:
        COUNTER = 0

        def __init__(self, **_: object) -> None: ...

        def Metric(self, labels: dict[str, str]) -> None: ...

    backend = types.SimpleNamespace(
        Tensor=Tensor, InferenceRequest=Asked, InferenceResponse=Answered, TRITONSERVER_MEMORY_CPU="cpu",
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=1, PreferredMemory=lambda kind, device: kind,
        TritonError=type("TritonError", (Exception,), {"__init__": lambda self, *_: None, "INVALID_ARG": 3}),
        get_input_tensor_by_name=find, get_output_tensor_by_name=find, MetricFamily=Family,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    source = Path(inference.__file__).parent / "backend" / "video" / "model.py"
    model = runpy.run_path(str(source))["TritonPythonModel"]()
    config = {"output": [{"name": "window"}, {"name": "embedding"}], "parameters": {"window_frames": {"string_value": "2"}}}
    model.initialize({"model_config": json.dumps(config), "model_name": "surg_video", "model_version": "1"})
    sent: list[Any] = []
    request = types.SimpleNamespace(
        tensors=[
            Tensor("frames", np.zeros((4, 2, 2, 3), np.uint8)),
            Tensor("zone", np.ones((1, 1), np.float32)),
            Tensor("stride", np.array([1], np.int32)),
        ],
        is_cancelled=lambda: False,
        get_response_sender=lambda: types.SimpleNamespace(send=lambda answer=None, flags=0: sent.append(answer)),
    )
    model.execute([request])
    assert [answer.failure for answer in sent[:-1]] == [None] * 3
    assert [int(find(answer, "window").value[0]) for answer in sent[:-1]] == [0, 1, 2]


def test_part_of_a_video_can_be_watched_with_surprise(local: Client, video: Path) -> None:
    found = list(local.watch(video, start_s=2, end_s=6, surprise=True))
    assert found[0].start_s == pytest.approx(2)
    assert found[-1].end_s <= 6 + 1e-6
    assert all(window.surprise is not None and window.surprise > 0 for window in found)
    assert set(found[0].action_probability) == set(local.contract.classes)


def test_every_second_window_can_do_without_surprise(local: Client, video: Path) -> None:
    found = list(local.watch(video, surprise=True, surprise_every=2))
    assert [window.surprise is not None for window in found[:4]] == [True, False, True, False]


def test_events_join_windows_above_the_threshold(local: Client, video: Path) -> None:
    found = list(local.watch(video))
    everything = list(inference.events(found, lambda _: 0.0, 1.0))
    assert [event.kind for event in everything] == ["breach", "breach in 1 s", "breach in 2 s", "breach in 5 s"]
    assert (everything[0].start_s, everything[0].end_s) == (found[0].end_s, pytest.approx(found[-1].end_s + 1))
    assert list(inference.events(found, lambda _: 1.1, 1.0)) == []


def test_a_folder_is_followed_until_files_stop_growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "time", Clock())
    (tmp_path / "a.mp4").write_bytes(b"12")
    (tmp_path / "notes.txt").write_bytes(b"12")
    assert list(inference.follow(tmp_path, for_s=0.2, every_s=0.05, settle_s=0)) == [tmp_path / "a.mp4"]


def test_an_upload_that_pauses_is_waited_for_and_one_that_goes_on_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(inference, "time", clock)
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")
    found = []
    for video in inference.follow(tmp_path, for_s=2.0, every_s=0.05, settle_s=0.5):
        found.append((video, video.stat().st_size))
        if len(found) == 1:
            assert clock.now == pytest.approx(0.5, abs=0.06)
            path.write_bytes(b"123")
    assert found == [(path, 1), (path, 3)]


def test_infer_writes_json_and_csv(
    surg: Callable[..., subprocess.CompletedProcess[str]], exported: Exported, video: Path, tmp_path: Path
) -> None:
    done = surg(
        "infer",
        video,
        "--server",
        f"local:{exported.repo}",
        "--out",
        "e.json",
        "--zone",
        "0.2,0.2 0.7,0.2 0.7,0.8",
        "--threshold",
        0,
    )
    assert done.returncode == 0, done.stderr
    assert "breach" in done.stdout
    written = json.loads((tmp_path / "e.json").read_text())
    assert written["model"]["architecture"] == "nano"
    assert len(written["videos"][0]["windows"]) == 11
    assert written["videos"][0]["windows"][0]["box"] is not None
    assert video.name not in done.stderr
    done = surg("infer", video.parent, "--server", f"local:{exported.repo}", "--out", "e.csv", "--stride", 2)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "e.csv").read_text().splitlines()) == 1 + 6
    assert surg("infer", "nothing.mp4", "--server", f"local:{exported.repo}").returncode == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--out", "."), "it is a folder"),
        (("--out", "notes.txt/e.json"), "is a file"),
        (("--zone", "0.1,0.1 0.9,0.1 5,6"), "outside the picture: 5,6"),
        (("--zone", "0.1,0.1,0.9 0.1,5"), "is not a list"),
        (("--threshold", "2"), "threshold"),
    ],
)
def test_infer_refuses_what_could_not_be_kept_or_would_never_alarm(
    given: tuple[str, ...],
    told: str,
    surg: Callable[..., subprocess.CompletedProcess[str]],
    exported: Exported,
    video: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "notes.txt").write_text("")
    done = surg("infer", video, "--server", f"local:{exported.repo}", *given)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stdout == ""


def test_a_zone_is_taken_as_the_page_shows_it() -> None:
    assert _polygon("0.2 0.3; 0.8 0.3; 0.5 0.9") == _polygon("0.2,0.3 0.8,0.3 0.5,0.9") == [[0.2, 0.3], [0.8, 0.3], [0.5, 0.9]]


def test_infer_says_that_a_model_without_a_head_looks_for_no_breach(
    surg: Callable[..., subprocess.CompletedProcess[str]], video: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bare.safetensors", without=("head.action", "head.sterility"))
    export_repository(bundle, tmp_path / "bare", clips=2, through_server=False)
    done = surg("infer", video, "--server", "local:bare", "--stride", 4)
    assert done.returncode == 0, done.stderr
    assert "no sterility head: breaches are not looked for" in done.stderr


@pytest.mark.triton
def test_serve_commands_work_from_shell_to_shell(
    surg: Callable[..., subprocess.CompletedProcess[str]], exported: Exported, video: Path, tmp_path: Path
) -> None:
    shell = {"SURG_STATE_DIR": str(tmp_path / "state")}
    started = surg("serve", "start", exported.repo, "--name", "t", "--threads", 1, **shell)
    assert started.returncode == 0, started.stderr
    try:
        status = json.loads(surg("serve", "status", "--name", "t", "--json", **shell).stdout)
        assert status["triton"] == "2.51.0"
        assert status["versions"] == [1, 2]
        assert "runs already" in surg("serve", "start", exported.repo, "--name", "t", **shell).stderr
        assert surg("infer", video, "--server", status["grpc"]).returncode == 0
        after = json.loads(surg("serve", "status", "--name", "t", "--json", **shell).stdout)
        assert after["requests"]["surg_clip/2"] > status["requests"]["surg_clip/2"]
        assert "HTTPService" in surg("serve", "logs", "--name", "t", "--lines", 200, **shell).stdout
    finally:
        stopped = surg("serve", "stop", "--name", "t", **shell)
    assert stopped.returncode == 0, stopped.stderr
    assert surg("serve", "status", "--name", "t", **shell).returncode == 1


TEN_LINES_GRPC = """
import numpy as np, tritonclient.grpc as triton
client = triton.InferenceServerClient(GRPC)
frames = np.zeros((1, 8, 64, 64, 3), np.uint8)      # B, T, S, S, RGB: prepared clips
zone = np.ones((1, 4, 4), np.float32)               # all ones: the whole picture
inputs = [triton.InferInput("frames", frames.shape, "UINT8"), triton.InferInput("zone", zone.shape, "FP32")]
inputs[0].set_data_from_numpy(frames)
inputs[1].set_data_from_numpy(zone)
answer = client.infer("surg_clip", inputs)
print(answer.as_numpy("breach"))                    # logits per horizon
client.close()
"""


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_ten_lines_of_tritonclient_are_enough(server: Server, client: Client, protocol: str) -> None:
    import sys

    url = server.grpc_url if protocol == "grpc" else server.http_url
    code = TEN_LINES_GRPC.replace("tritonclient.grpc", f"tritonclient.{protocol}").replace("GRPC", repr(url))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ours = client.clip(np.zeros((8, 64, 64, 3), np.uint8)).breach
    np.testing.assert_allclose(np.fromstring(done.stdout.strip(" []\n"), sep=" "), ours[0], atol=1e-4)


def test_the_client_needs_no_torch() -> None:
    import sys

    code = (
        "import sys, surg.serving.client, surg.serving.contract, surg.serving.stream, surg.serving.inference, surg.serving.local;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
