import re
from xml.etree import ElementTree

from surg.demo.analysis import Analysis, scaled
from surg.demo.timeline import clock, draw


def test_each_window_is_a_button_with_words_for_a_screen_reader(analysis: Analysis) -> None:
    tree = ElementTree.fromstring(draw(analysis))
    buttons = [part for part in tree.iter() if part.get("role") == "button"]
    assert len(buttons) == len(analysis.windows)
    assert buttons[3].get("aria-label") == "0:02.0, approach, breach 0.70"
    assert [button.get("tabindex") for button in buttons].count("0") == 1


def test_alarms_lie_where_the_score_reaches_the_threshold(analysis: Analysis) -> None:
    (alarm,) = analysis.alarms
    assert (alarm.start_s, alarm.end_s, alarm.score) == (2.0, 3.0, 0.9)
    assert draw(analysis).count('class="alarm"') == 1
    analysis.threshold = 0.95
    assert analysis.alarms == []
    assert 'class="alarm"' not in draw(analysis)


def test_the_last_window_alarms_to_the_end_of_the_video_and_no_further(analysis: Analysis) -> None:
    """The clip lasts 4 s; its last window ends there, and one stride before when the last is not there yet."""
    for window in analysis.windows[-2:]:
        window.breach_probability["0"] = 0.8
    assert [(span.start_s, span.end_s) for span in analysis.alarms] == [(2.0, 3.0), (3.5, 4.0)]
    del analysis.windows[-1]
    assert [(span.start_s, span.end_s) for span in analysis.alarms] == [(2.0, 3.0), (3.5, 4.0)]
    analysis.stride_s = 10.0
    assert analysis.alarms[-1].end_s == analysis.duration_s == 4.0


def test_the_chosen_moment_is_marked(analysis: Analysis) -> None:
    assert 'class="chosen"' not in draw(analysis)
    assert draw(analysis, 2).count('class="chosen"') == 1


def test_the_key_names_what_is_drawn_and_nothing_else(analysis: Analysis) -> None:
    names = [item.text or "".join(item.itertext()) for item in ElementTree.fromstring(draw(analysis)).iter("li")]
    assert names == ["approach", "close", "breach score", "alarm", "surprise", "motion, both over their median"]
    for window in analysis.windows:
        object.__setattr__(window, "surprise", None)
    assert "surprise" not in draw(analysis)


def test_the_most_telling_moment_is_the_highest_breach(analysis: Analysis) -> None:
    assert analysis.most_telling == 4


def test_before_the_first_window_it_says_so() -> None:
    assert "appears here" in draw(None)


def test_class_names_cannot_inject_markup(analysis: Analysis) -> None:
    bad = "<script>alert(1)</script>"
    analysis.classes = (bad, *analysis.classes)
    object.__setattr__(analysis.windows[0], "action", bad)
    assert "<script" not in draw(analysis)


def test_curves_of_different_units_share_an_axis() -> None:
    assert scaled([2.0, None, 4.0, 6.0]) == [0.5, None, 1.0, 1.5]
    assert scaled([None, 0.0]) == [None, None]


def test_the_clock_reads_minutes() -> None:
    assert [clock(value) for value in (0, 59.94, 61.5, 600)] == ["0:00.0", "0:59.9", "1:01.5", "10:00.0"]


def test_points_stay_inside_the_picture(analysis: Analysis) -> None:
    for values in re.findall(r'points="([^"]+)"', draw(analysis)):
        for pair in values.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 1000
            assert y >= 0
