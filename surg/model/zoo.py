"""Names of models and what belongs to each: sizes, files, preprocessing, licences."""

import difflib

from surg.errors import ConfigError
from surg.model.config import EncoderConfig, PredictorConfig

ENCODERS: dict[str, EncoderConfig] = {
    "nano": EncoderConfig(embed_dim=48, depth=4, num_heads=2),
    "tiny": EncoderConfig(embed_dim=192, depth=12, num_heads=3),
    "small": EncoderConfig(embed_dim=384, depth=12, num_heads=6),
    "vitl": EncoderConfig(embed_dim=1024, depth=24, num_heads=16),
    "vith": EncoderConfig(embed_dim=1280, depth=32, num_heads=16),
    "vitg": EncoderConfig(embed_dim=1408, depth=40, num_heads=22, mlp_ratio=48 / 11),
}

PREDICTORS: dict[str, PredictorConfig] = {
    "nano": PredictorConfig(embed_dim=48, width=24, depth=2, num_heads=2),
    "tiny": PredictorConfig(embed_dim=192, width=96, depth=6, num_heads=3),
    "small": PredictorConfig(embed_dim=384, width=192, depth=6, num_heads=6),
    "vitl": PredictorConfig(embed_dim=1024),
    "vith": PredictorConfig(embed_dim=1280),
    "vitg": PredictorConfig(embed_dim=1408),
}


def encoder_config(name: str) -> EncoderConfig:
    """Settings of a named encoder."""
    return _named(ENCODERS, name)


def predictor_config(name: str) -> PredictorConfig:
    """Settings of the predictor that goes with a named encoder."""
    return _named(PREDICTORS, name)


def _named(table: dict[str, EncoderConfig] | dict[str, PredictorConfig], name: str):  # type: ignore[no-untyped-def]
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"There is no model {name!r}.{hint} Known: {', '.join(table)}.")
    return table[name]
