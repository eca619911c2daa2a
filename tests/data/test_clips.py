"""Windows over time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surg.data.clips import ClipConfig, frame_times, windows

CONFIGS = st.builds(
    ClipConfig, num_frames=st.sampled_from([1, 8, 16, 32, 64]), fps=st.floats(0.5, 60), stride_s=st.floats(0.05, 10)
)


@settings(deadline=None)
@given(st.floats(0, 1e5), CONFIGS)
def test_no_frame_seen_lies_after_the_moment_of_prediction(end_s: float, config: ClipConfig) -> None:
    times = frame_times(end_s, config)
    assert len(times) == config.num_frames
    assert times[-1] == end_s
    assert (np.diff(times) >= 0).all()
    assert (times >= 0).all()


@settings(deadline=None)
@given(st.floats(0, 1e5), CONFIGS)
def test_frames_are_one_period_apart_unless_the_video_has_not_begun(end_s: float, config: ClipConfig) -> None:
    times = frame_times(end_s, config)
    inside = times[times > 0]
    assert np.diff(inside) == pytest.approx(1 / config.fps, abs=1e-6)


@settings(deadline=None)
@given(st.floats(0, 200), CONFIGS)
def test_windows_lie_inside_the_video_and_leave_less_than_a_stride(duration_s: float, config: ClipConfig) -> None:
    ends = windows(duration_s, config)
    assert ends
    assert max(ends) <= duration_s
    if duration_s >= config.span_s:
        assert ends[0] == config.span_s
        assert duration_s - ends[-1] < config.stride_s * (1 + 1e-5)
        assert np.diff(ends) == pytest.approx(config.stride_s, rel=1e-3, abs=1e-6)
    else:
        assert ends == [duration_s]


def test_the_numbers_of_an_example() -> None:
    config = ClipConfig(num_frames=8, fps=4, stride_s=0.5)
    assert frame_times(2.0, config).tolist() == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert frame_times(0.5, config).tolist() == [0, 0, 0, 0, 0, 0, 0.25, 0.5]
    assert windows(3.0, config) == [1.75, 2.25, 2.75]
    assert windows(12.0, config, start_s=10.0) == [11.75]
    assert windows(1.0, config) == [1.0]
