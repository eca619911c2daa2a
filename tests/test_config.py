from pathlib import Path

import pytest
from pydantic import Field

from surg.config import Config, flatten, load_config, to_yaml
from surg.errors import ConfigError
from surg.train.config import TrainConfig


class Optim(Config):
    lr: float = Field(1e-3, gt=0)
    """Largest learning rate."""
    steps: int = 10


class Whole(Config):
    optim: Optim = Optim()
    name: str = "run"


class Patient(Config):
    optim: Optim = Optim(lr=0.5)


def test_later_sources_win_and_overrides_win_over_all(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("optim:\n  lr: 0.5\n  steps: 3\n")
    config = load_config(Whole, file, {"optim": {"steps": 4}}, overrides=["optim.lr=0.25", "name=other"])
    assert (config.optim.lr, config.optim.steps, config.name) == (0.25, 4, "other")


@pytest.mark.parametrize("text", ["3e-4", "3E-4", "0.0003"])
def test_scientific_numbers_are_numbers_in_files_and_overrides(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"optim:\n  lr: {text}\n")
    assert load_config(Whole, file).optim.lr == pytest.approx(3e-4)
    assert load_config(Whole, overrides=[f"optim.lr={text}"]).optim.lr == pytest.approx(3e-4)


def test_one_setting_of_a_branch_leaves_the_others_at_what_its_owner_gives_them() -> None:
    assert load_config(Patient, overrides=["optim.steps=3"]).optim == Optim(lr=0.5, steps=3)
    assert load_config(Patient, {"optim": {"lr": 0.1}}).optim == Optim(lr=0.1)


def test_settings_that_do_not_fit_each_other_are_told_without_all_the_others() -> None:
    with pytest.raises(ConfigError) as error:
        load_config(TrainConfig, overrides=["batch_size=7", "accumulate=2"])
    assert str(error.value) == "Settings: batch_size 7 does not split into accumulate 2 equal parts"


def test_a_typo_names_the_nearest_setting() -> None:
    with pytest.raises(ConfigError, match=r"no setting `optim.stpes`.*Did you mean `optim.steps`"):
        load_config(Whole, overrides=["optim.stpes=3"])


def test_a_typo_is_answered_with_the_settings_that_are_there() -> None:
    with pytest.raises(ConfigError, match=r"`optim` has: .*lr.*steps|`optim` has: .*steps.*lr"):
        load_config(Whole, overrides=["optim.stpes=3"])
    with pytest.raises(ConfigError, match=r"There are: .*optim"):
        load_config(Whole, overrides=["nothing_like_it=3"])


def test_a_typo_in_a_branch_with_free_names_keeps_the_name() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean `data.sources.mine.manifest`\? `data.sources.mine` has: manifest, "):
        load_config(TrainConfig, overrides=["data.sources.mine.manifes=a.parquet"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.encoder.dept=3",
            r"no setting `model.encoder.dept`. Did you mean `model.encoder.depth`\? `model.encoder` has: kind",
        ),
        ("model.predictor={widht: 3}", r"Did you mean `model.predictor.width`\?"),
        ("model.world.depth=deep", r"`model.world.depth`: .*found 'deep', a str"),
    ],
)
def test_changes_to_a_network_are_known_before_there_is_one(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, overrides=[override])


def test_changes_that_fit_only_the_network_they_change_are_taken() -> None:
    # Three heads do not divide the usual world model's width; they divide that of a tiny encoder.
    assert load_config(TrainConfig, overrides=["model.world.num_heads=3"]).model.world == {"num_heads": 3}
    assert load_config(TrainConfig, overrides=["model.factorized=true", "model.encoder.spatial_depth=2"]).model.factorized


def test_a_wrong_type_says_what_was_found() -> None:
    with pytest.raises(ConfigError, match=r"`optim.steps`.*found 'many', a str"):
        load_config(Whole, overrides=["optim.steps=many"])


def test_a_value_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="greater than 0"):
        load_config(Whole, overrides=["optim.lr=-1"])


@pytest.mark.parametrize("bad", ["optim.lr", "=3"])
def test_an_override_that_is_no_assignment_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        load_config(Whole, overrides=[bad])


@pytest.mark.parametrize(("content", "message"), [(b"- 1\n- 2\n", "list"), (b"a: [1\n", "YAML"), (b"\xff\xfe\x00", "YAML")])
def test_a_file_that_is_no_settings_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(Whole, file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no settings file"):
        load_config(Whole, tmp_path / "absent.yaml")


def test_yaml_round_trip_changes_nothing(tmp_path: Path) -> None:
    config = load_config(Whole, overrides=["optim.lr=3e-4"])
    file = tmp_path / "a.yaml"
    file.write_text(to_yaml(config))
    assert load_config(Whole, file) == config
    assert flatten(config) == {"optim.lr": 3e-4, "optim.steps": 10, "name": "run"}


def test_a_config_cannot_be_changed_after_it_was_built() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Whole().name = "new"  # type: ignore[misc]
