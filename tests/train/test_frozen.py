"""Features of a frozen encoder are made once, and heads learn from them what they would learn from the pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surg.data.feature_table import read_features
from surg.errors import ConfigError
from surg.model.encoder import Encoder
from surg.train import loop
from surg.train.config import TrainConfig
from surg.train.launch import Choices, resolve
from surg.train.loop import train

Settings = Callable[..., TrainConfig]
SOURCE = "data.sources.main"


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoints" / "resume.pt", weights_only=True)["trainee"]
    return {name: tensor for name, tensor in state.items() if name.startswith("heads.")}


@pytest.mark.parametrize(
    "task",
    [(), (f"{SOURCE}.tasks=[sterility]", f"{SOURCE}.zone=true", "data.augment.zone_jitter=0")],
    ids=["action", "zone"],
)
def test_cached_features_teach_what_the_pictures_teach(
    task: tuple[str, ...], settings: Settings, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (*task, f"{SOURCE}.manifest={room}") if task else ()
    # Calibration looks at val clips anew, after training; here only training's own encoding counts.
    monkeypatch.setattr(loop, "calibrate_bundle", lambda *_: None)
    plain = Encoder.forward
    seen: dict[bool, int] = {True: 0, False: 0}
    for cached in (True, False):

        def counting(self: Encoder, clip: torch.Tensor, keep: torch.Tensor | None = None, which: bool = cached) -> torch.Tensor:
            seen[which] += len(clip)
            return plain(self, clip, keep)

        monkeypatch.setattr(Encoder, "forward", counting)
        # A head's first steps amplify the last bits of its input (Adam divides by their size): a small rate keeps them visible as such.
        config = settings("probe", "steps=12", "epochs=1", "optim.lr=1e-4", f"data.cache_features={str(cached).lower()}", *more)
        train(config, tmp_path / str(cached))
    one, other = weights(tmp_path / "True"), weights(tmp_path / "False")
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], atol=2e-5), name
    tables = [read_features(path) for path in (tmp_path / "True" / "cache").glob("features-*.arrow")]
    assert seen[True] == sum(len(table) for table in tables)
    assert seen[False] > 2 * seen[True]


def test_a_second_run_on_the_same_encoder_encodes_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("probe", "steps=2", f"data.cache={tmp_path / 'cache'}")
    train(config, tmp_path / "one")

    def never(self: Encoder, clip: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        raise AssertionError("encoded again")

    monkeypatch.setattr(Encoder, "forward", never)
    train(config, tmp_path / "two")
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_an_encoder_that_the_flag_wakes_is_not_encoded_once(tissue: Path) -> None:
    woken = resolve(Choices("probe", [str(tissue)], encoder_frozen=False, num_workers=1))
    assert (woken.trainable.encoder, woken.data.cache_features, woken.data.workers) == ("all", False, 1)
    assert resolve(Choices("probe", [str(tissue)], encoder_frozen=True)).data.cache_features
    with pytest.raises(ConfigError, match=r"the encoder learns .*or set data\.cache_features=false"):
        resolve(Choices("probe", [str(tissue)], encoder_frozen=False, overrides=["data.cache_features=true"]))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("trainable.encoder=last", "trainable.encoder=none"),
        ("data.windows=anywhere", "data.windows=last"),
        ("data.augment.contrast=0.2", "contrast"),
        ("loss.keep=0.5", "loss.keep=1"),
        (f"{SOURCE}.tasks=[action,flow]", "flow"),
    ],
)
def test_what_would_change_the_features_is_refused_with_the_way_out(setting: str, named: str, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=named):
        settings("probe", setting)
