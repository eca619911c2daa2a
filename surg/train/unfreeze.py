"""Who learns when: frozen parts, progressive prefix unfreezing, LP-FT's first stage, the last blocks, LoRA."""

from torch import nn

from surg.errors import ConfigError
from surg.train.config import TrainableConfig, TrainConfig
from surg.train.schedules import stage_at
from surg.train.trainee import Trainee


def stage_lengths(config: TrainConfig, steps: int) -> list[int]:
    """Steps of each stage; they add up to `steps`. Without stages there is one."""
    if not config.stages:
        return [steps]
    total = sum(stage.share for stage in config.stages)
    ends, run = [], 0.0
    for stage in config.stages:
        run += stage.share / total
        ends.append(round(steps * run))
    lengths = [end - start for start, end in zip([0, *ends], ends)]
    if min(lengths) < 1:
        raise ConfigError(f"{steps} steps are too few for {len(lengths)} stages; use --set steps={10 * len(lengths)} or more.")
    return lengths


def plan_at(step: int, config: TrainConfig, lengths: list[int]) -> tuple[int, TrainableConfig, dict[str, float] | None]:
    """Stage number, who learns, and the mix of sources at a step (from 1)."""
    number, _ = stage_at(step, lengths)
    learns, mix = config.trainable, None
    if config.stages:
        stage = config.stages[number]
        mix = stage.mix or None
        if learns.encoder == "prefix":
            learns = learns.model_copy(update={"depth": stage.depth})
    if config.drift.lpft and step <= round(sum(lengths) * config.drift.lpft):
        learns = learns.model_copy(update={"encoder": "none"})
    return number, learns, mix


def apply(trainee: Trainee, learns: TrainableConfig) -> int:
    """Set requires_grad everywhere. Returns how many numbers learn. Parts that fall asleep lose their gradients."""
    encoder = trainee.encoder
    blocks = encoder_blocks(encoder)
    encoder.requires_grad_(False)
    if learns.encoder == "all":
        encoder.requires_grad_(True)
    elif learns.encoder == "prefix":
        # Depth 0.25 of 40 blocks is 10: the seed's "layers 0 to 10", the patch embedding with them.
        count = round(len(blocks) * learns.depth)
        for block in blocks[:count]:
            block.requires_grad_(True)
        outside = [
            child
            for name, child in encoder.named_children()
            if "embed" in name or (count == len(blocks) and "blocks" not in name)
        ]
        for child in outside:
            child.requires_grad_(True)
    elif learns.encoder == "last":
        for block in blocks[len(blocks) - min(learns.blocks, len(blocks)) :]:
            block.requires_grad_(True)
        for name, child in encoder.named_children():
            if "norm" in name:
                child.requires_grad_(True)
    elif learns.encoder == "lora":
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_("lora_" in name)
    if trainee.predictor is not None:
        trainee.predictor.requires_grad_(learns.predictor)
    trainee.heads.requires_grad_(learns.heads)
    for parameter in trainee.parameters():
        if not parameter.requires_grad:
            parameter.grad = None
    trainee.encoder_frozen = not any(parameter.requires_grad for parameter in encoder.parameters())
    awake = sum(parameter.numel() for parameter in trainee.parameters() if parameter.requires_grad)
    if not awake:
        raise ConfigError(
            f"Nothing learns: not the encoder (trainable.encoder={learns.encoder}), not the predictor, and no head. "
            "Wake one: --set trainable.encoder=all, --set trainable.predictor=true or --set trainable.heads=true"
        )
    return awake


def encoder_blocks(encoder: nn.Module) -> list[nn.Module]:
    """All transformer blocks in order; a factorised encoder has its spatial ones first."""
    found = [
        module
        for name, module in encoder.named_modules()
        if name.split(".")[-1].isdigit() and name.split(".")[-2].endswith("blocks")
    ]
    if not found:
        raise ConfigError(f"{type(encoder).__name__} has no blocks to freeze or wake one by one.")
    return found
