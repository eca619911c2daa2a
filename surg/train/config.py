"""Everything a training run can be told, as one tree. Recipes (recipes/*.yaml) are values for it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from surg.config import Config, require_known
from surg.data.augment import AugmentConfig
from surg.model.config import EncoderConfig, FactorizedConfig, PredictorConfig, WorldConfig
from surg.train.optim import OptimConfig
from surg.train.schedules import ScheduleConfig

Task = Literal["jepa", "action", "sterility", "motion_aux", "flow", "order", "contrast", "mask_aux", "world"]
# What can be learnt from tokens alone.
FROZEN_TASKS: tuple[Task, ...] = ("action", "sterility", "motion_aux")
Precision = Literal["auto", "fp32", "bf16", "fp16"]

# The names that the project uses everywhere for the motion of tissue; see surg.data.synth and surg.data.motion.
DEFAULT_HORIZONS = (0.0, 1.0, 2.0, 5.0)


class SourceConfig(Config):
    manifest: Path | None = None
    """Manifest of clips. `--data NAME=PATH` fills it in; `--data PATH` fills in all that are empty."""
    share: float = Field(1.0, ge=0)
    """Share of every batch, against the other sources'."""
    tasks: tuple[Task, ...] = ("jepa",)
    """Losses that clips of this source take part in."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Only clips with these values in `labels` or `meta`, for example {factor: D_L}."""
    split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to choose checkpoints on; `test` is refused."""
    zone: bool = False
    """Crop around the clip's zone and hand the zone to the sterility head."""
    label: str = "action"
    """Name of the label that the action head learns."""
    flip: float | None = Field(None, ge=0, le=1)
    """Chance of a horizontal flip for this source; `augment.flip` when not set."""
    reverse: dict[str, str] = Field(default_factory=dict)
    """Label -> label of the same clip played backwards; half of such clips are then shown backwards."""
    motion: Path | None = None
    """Table of `surg data motion`: what the motion_aux head learns, beside the class."""
    actions: tuple[str, ...] = ()
    """Names, in the timeline or the labels, of what is done: the world model is conditioned on them."""
    states: tuple[str, ...] = ()
    """Names of what is known about the robot or the room at each step."""
    replay: bool = False
    """Clips of old data: shown as they are, and held to the starting encoder's features when `weights.clear` is above 0."""
    limit: int | None = Field(None, gt=0)
    """At most this many clips."""

    @model_validator(mode="after")
    def _never_test(self) -> "SourceConfig":
        if "test" in (self.split, self.val_split):
            raise ValueError("test clips may neither train a model nor choose its checkpoint; use train and val")
        return self


class TrainAugment(AugmentConfig):
    flip: float = Field(0.0, ge=0, le=1)
    """Share of clips that are mirrored. Off: left and right are classes of motion; sources may set their own."""


class DataConfig(Config):
    sources: dict[str, SourceConfig] = Field(default_factory=lambda: {"main": SourceConfig()})
    """Where clips come from."""
    size: int = Field(160, gt=0)
    """Side of the square picture."""
    num_frames: int = Field(16, gt=0)
    """Frames of a clip."""
    fps: float = Field(4.0, gt=0)
    """Frames per second of video time."""
    zone_crop: float = Field(1.4, ge=0)
    """Zone sources are cropped to this many times the zone's box."""
    augment: TrainAugment = TrainAugment()
    """Changes to training clips."""
    windows: Literal["anywhere", "last"] = "anywhere"
    """Where the windows of training and validation end: anywhere in the clip, or always at its last frame."""
    cache_features: bool = False
    """A frozen encoder sees each clip once; its tokens are kept beside the decoded clips (Arrow) and the heads learn from them."""
    cache: Path | None = None
    """Folder for decoded clips (uint8, memory-mapped), shared between runs; RUN/cache when not set."""
    workers: int = Field(0, ge=0)
    """Processes that decode into the cache before the first step, and threads that make batches ready ahead."""
    curriculum: bool = False
    """Clip length grows: min(8 + epoch // 50, num_frames), even; by four frames where clips are halved (order, contrast, mask_aux)."""
    curriculum_every: int = Field(50, gt=0)
    """Epochs per added frame of the curriculum."""
    order: Literal["uniform", "easy-first"] = "uniform"
    """easy-first: clips with least motion (meta.motion, else the source's order) come first, all of them after half the run."""
    max_bad: float = Field(0.05, ge=0, le=1)
    """Share of clips that may fail to decode; they are listed, more of them fail the run."""


class ModelConfig(Config):
    size: str = "tiny"
    """Name in `surg weights list`, used when `init` does not say."""
    encoder: dict[str, Any] = Field(default_factory=dict)
    """Changes to that size's encoder, for example {depth: 6}."""
    predictor: dict[str, Any] = Field(default_factory=dict)
    """Changes to that size's predictor."""
    start: Literal["random", "motion-energy"] = "random"
    """Weights of a fresh encoder. motion-energy: patch filters that see direction of motion; small encoders learn motion from little data."""
    grow: int | None = Field(None, gt=0)
    """Depth that a shallower encoder of `init` grows to, by blocks on top that change nothing until they have learnt something."""
    factorized: bool = False
    """The second seed's encoder: spatial, then temporal attention."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    head_depth: int = Field(2, ge=1)
    """Blocks of the attentive classifiers (the official probe has 4)."""
    head_heads: int | None = Field(None, gt=0)
    """Attention heads of the classifiers; the encoder's own number when not set."""
    classes: tuple[str, ...] = ()
    """Names of the action classes; read off the training manifest when empty."""
    world: dict[str, Any] = Field(default_factory=dict)
    """Changes to the world model, for example {width: 384, depth: 12, num_heads: 12}."""
    horizons_s: tuple[Annotated[float, Field(ge=0)], ...] = Field(DEFAULT_HORIZONS, min_length=1)
    """Seconds ahead that the sterility head looks."""

    @model_validator(mode="after")
    def _known(self) -> "ModelConfig":
        require_known(FactorizedConfig if self.factorized else EncoderConfig, self.encoder, "model.encoder")
        require_known(PredictorConfig, self.predictor, "model.predictor")
        require_known(WorldConfig, self.world, "model.world")
        return self


class TrainableConfig(Config):
    encoder: Literal["all", "none", "prefix", "last", "lora"] = "all"
    """Which encoder blocks learn: `prefix` the first `depth` share, `last` the last `blocks`, `lora` low-rank updates."""
    depth: float = Field(1.0, ge=0, le=1)
    """Share of the blocks for `prefix`."""
    blocks: int = Field(2, ge=0)
    """Blocks for `last`."""
    predictor: bool = True
    """Whether the predictor learns."""
    heads: bool = True
    """Whether the heads learn."""
    lora_rank: int = Field(8, gt=0)
    """Rank of the LoRA update."""
    lora_alpha: int = Field(16, gt=0)
    """Scale of the LoRA update, divided by the rank."""


class MaskConfig(Config):
    kind: Literal["multiblock", "future", "forecast", "mgmae"] = "multiblock"
    """multiblock: 8 small and 2 large tubes; future: late frames are masked more; forecast: only late frames, and whole ones;
    mgmae: warped along the flow."""
    groups: tuple[tuple[Annotated[int, Field(gt=0)], Annotated[float, Field(gt=0, le=1)]], ...] = ((8, 0.15), (2, 0.7))
    """(blocks, share of the picture of each) of every mask; one student pass each."""
    ratio: float | None = Field(None, gt=0, lt=1)
    """Exact share of tokens masked. Multi-block draws are trimmed or grown to it; unset, they keep what the blocks give. Not for forecast."""
    temporal_ratio: float = Field(0.5, ge=0, le=1)
    """Share of the frames that count as late, for `future`; for `forecast` the most that is hidden, drawn anew at each step."""

    @model_validator(mode="after")
    def _ratio_counts(self) -> "MaskConfig":
        if self.kind == "forecast" and self.ratio is not None:
            raise ValueError(
                f"masks.ratio={self.ratio} has no effect on forecast masks, which hide whole frames; set masks.temporal_ratio."
            )
        if self.kind == "forecast" and not 0 < self.temporal_ratio < 1:
            raise ValueError(f"masks.temporal_ratio={self.temporal_ratio} must lie between 0 and 1 for forecast masks.")
        return self


class LossWeights(Config):
    jepa: float = Field(1.0, ge=0)
    """Masked latents, L1."""
    context: float = Field(0.0, ge=0)
    """2.1's loss on visible tokens (0.5 there)."""
    motion_aux: float = Field(0.1, ge=0)
    """Motion class and 23 motion features from pooled tokens."""
    action_map: float = Field(0.0, ge=0)
    """Which token shows the instrument that does the action, and which action: a linear layer on every token. Needs masks."""
    flow: float = Field(0.5, ge=0)
    """Optical flow of every token by a linear layer: dense teaching of motion that needs no label."""
    action: float = Field(1.0, ge=0)
    """Motion class by the attentive classifier."""
    sterility: float = Field(1.0, ge=0)
    """Breach now and at each horizon."""
    breach_map: float = Field(0.5, ge=0)
    """Where the breach is, per token."""
    unsterile_map: float = Field(0.0, ge=0)
    """Which token shows somebody or something that is not sterile: a linear layer on every token. Needs masks that say who is."""
    order: float = Field(1.0, ge=0)
    """Temporal order (stage 1)."""
    contrast: float = Field(1.0, ge=0)
    """InfoNCE between two views (stage 1)."""
    mask_aux: float = Field(0.1, ge=0)
    """Mask denoising (stage 1)."""
    world: float = Field(1.0, ge=0)
    """Action-conditioned prediction of the next latents (stage 2)."""
    clear: float = Field(0.0, ge=0)
    """Replay with distillation: distance of replayed clips' features to those stored at the start."""
    anchor: float = Field(0.0, ge=0)
    """L2 distance of the weights to their start."""
    ewc: float = Field(0.0, ge=0)
    """The same, each weight by its Fisher information."""


class LossConfig(Config):
    weights: LossWeights = LossWeights()
    """Each loss's weight; 0 switches it off."""
    exponent: float = Field(1.0, gt=0)
    """1: L1, 2: MSE / 2."""
    temperature: float = Field(0.07, gt=0)
    """InfoNCE's temperature."""
    queue: int = Field(256, ge=0)
    """Earlier views that InfoNCE keeps as negatives."""
    flow_weight: float = Field(0.0, ge=0)
    """Weighs the masked-latent loss by 1 + flow_weight * flow / mean flow."""
    rare: Literal["none", "focal"] = "focal"
    """What the sterility loss does about rare breaches."""
    roll_out: int = Field(2, ge=0)
    """Steps that the world model predicts from its own predictions while training."""
    focal_gamma: float = Field(1.0, ge=0)
    """Focal loss's exponent."""
    positive_share: float | None = Field(0.7, gt=0, le=1)
    """Of clips that have a breach: share of the windows that end in it; null lets windows end anywhere."""
    keep: float = Field(1.0, gt=0, le=1)
    """Share of tokens that supervised losses see while training: 0.5 is more than twice as fast and regularises."""
    keep_dense: float = Field(1.0, gt=0, le=1)
    """The same for clips with a breach map. A breach is a few tokens: fewer tokens are faster and miss some."""
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    """Of the action loss."""
    context_ramp: tuple[int, int] = (15_000, 30_000)
    """Steps over which the context loss comes in."""


class TeacherConfig(Config):
    momentum: float = Field(0.99925, ge=0, le=1)
    """EMA at the start."""
    final_momentum: float | None = Field(None, ge=0, le=1)
    """EMA at the end (linear); constant when not set."""
    export: bool = False
    """Bundles hold the teacher's encoder (what Meta's evaluations use) instead of the student's. It needs long runs."""
    frozen: bool = False
    """SALT: the teacher is the starting encoder and never moves."""


class DriftConfig(Config):
    lpft: float = Field(0.0, ge=0, lt=1)
    """LP-FT: share of the run in which only heads and predictor learn before the encoder does."""
    wise: float | None = Field(None, ge=0, le=1)
    """WiSE-FT: at the end the encoder is (1 - wise) * start + wise * trained."""
    fisher_batches: int = Field(8, gt=0)
    """Batches from which EWC's Fisher information is estimated, clip by clip."""


class StageConfig(Config):
    share: float = Field(1.0, gt=0)
    """Length, against the other stages'."""
    depth: float = Field(1.0, gt=0, le=1)
    """Share of encoder blocks that learn, from the first."""
    mix: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Source -> share of the batch; sources that are not named give nothing."""


class WatchConfig(Config):
    every: int = Field(100, ge=0)
    """Steps between looks at the features of held-out clips; 0: only at the end."""
    clips: int = Field(64, gt=0)
    """Held-out clips."""
    collapse_std: float = Field(0.05, ge=0)
    """Alarm below this share of the starting feature std, or of its effective rank."""


class CalibrateConfig(Config):
    method: Literal["platt", "temperature", "none"] = "platt"
    """How the sterility head's scores are made probabilities on val, after the last step: scale and bias, scale alone, or as they are."""
    threshold: Literal["f1", "false_alarms"] = "f1"
    """What the threshold of an alarm is chosen for on val: the best F1 of windows, or the best recall within `false_per_hour`."""
    false_per_hour: float = Field(5.0, gt=0)
    """False alarms an hour that the second way allows."""
    stride_s: float = Field(0.5, gt=0)
    """Seconds between the windows looked at."""
    clips: int = Field(256, gt=0)
    """At most this many val clips of each source."""


class TrainConfig(Config):
    recipe: str = "pretrain"
    """Name of the recipe."""
    seed: int = Field(0, ge=0)
    """Seed of weights, batches, crops and masks."""
    init: str | None = None
    """Weights to start from: a run, a bundle, Meta's .pt, a Hugging Face folder. Unset: random."""
    init_key: str | None = None
    """Which encoder of a Meta file: target_encoder, encoder or ema_encoder."""
    model: ModelConfig = ModelConfig()
    trainable: TrainableConfig = TrainableConfig()
    data: DataConfig = DataConfig()
    masks: MaskConfig = MaskConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    teacher: TeacherConfig = TeacherConfig()
    drift: DriftConfig = DriftConfig()
    stages: tuple[StageConfig, ...] = ()
    """Surgery's stages; empty: one stage with the sources' own shares."""
    watch: WatchConfig = WatchConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    steps: int | None = Field(None, gt=0)
    """Length in optimiser steps; wins over `epochs`."""
    epochs: float = Field(10.0, gt=0)
    """Length in passes over the training clips."""
    batch_size: int = Field(8, gt=0)
    """Clips of one optimiser step, over all processes."""
    accumulate: int = Field(1, gt=0)
    """Parts a batch is split into to save memory; gradients are those of the whole batch (contrast has the negatives of its part and the queue)."""
    precision: Precision = "auto"
    """auto: bf16 where the hardware has it (GPU, or a CPU with AVX512-BF16 or AMX), else fp32."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """What several processes share: the batch (ddp), or weights, gradients and moments too (fsdp2). Either resumes the other's runs."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Where to train."""
    threads: int | None = Field(None, gt=0)
    """CPU threads of torch."""
    save_every: int = Field(200, gt=0)
    """Steps between checkpoints."""
    validate_every: int = Field(200, ge=0)
    """Steps between validations; 0: at the end of every epoch."""
    val_batches: int = Field(16, gt=0)
    """Batches of a validation."""
    log_every: int = Field(10, gt=0)
    """Steps between log lines."""
    guide_checkpoint: bool = False
    """Also write checkpoints/best_vjepa2_finetuned.pth, as the integration guide loads it."""
    choose_by: Literal["loss", "score"] = "loss"
    """What makes a checkpoint the best on val: the lowest loss, or the highest mean of action top-1 and breach precision."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    curves: bool = True
    """Draw plots/curves.png at the end."""

    @model_validator(mode="after")
    def _fits(self) -> "TrainConfig":
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not split into accumulate {self.accumulate} equal parts")
        if self.data.cache_features and (changing := self._what_changes()):
            raise ValueError(
                f"data.cache_features keeps one encoding of each clip, but {'; '.join(changing)}. "
                "Change that, as in brackets, or set data.cache_features=false"
            )
        if self.loss.weights.clear and self.data.curriculum and any(source.replay for source in self.data.sources.values()):
            raise ValueError(
                "loss.weights.clear holds replayed clips to features of their full length, and data.curriculum shows shorter ones first. "
                "Set data.curriculum=false, or loss.weights.clear=0 (loss.weights.anchor holds the encoder as well)"
            )
        if self.loss.weights.clear and not any(source.replay for source in self.data.sources.values()):
            raise ValueError(
                f"loss.weights.clear={self.loss.weights.clear:g} holds replayed clips to their stored features, and no source replays.\n"
                f"Let one: --set data.sources.{next(iter(self.data.sources), 'NAME')}.replay=true; or set loss.weights.clear=0"
            )
        for stage in self.stages:
            unknown = set(stage.mix) - set(self.data.sources)
            if unknown:
                raise ValueError(f"a stage mixes {sorted(unknown)}, but the sources are {sorted(self.data.sources)}")
        return self

    def _what_changes(self) -> list[str]:
        """What would make a clip's encoding differ from step to step, or needs its pictures."""
        data, augment = self.data, self.data.augment
        tasks = {task for source in data.sources.values() for task in source.tasks}
        varied = [name for name in ("brightness", "contrast", "saturation", "flip") if getattr(augment, name)]
        varied += ["scale"] if augment.scale != (1.0, 1.0) else []
        varied += ["zone_jitter"] if augment.zone_jitter and any(source.zone for source in data.sources.values()) else []
        found = {
            "the encoder learns (trainable.encoder=none)": self.trainable.encoder != "none",
            "windows end anywhere (data.windows=last)": data.windows != "last",
            "clips grow longer (data.curriculum=false)": data.curriculum,
            f"pictures vary (data.augment: {', '.join(varied)})": bool(varied),
            "sources flip, reverse or replay clips": any(s.flip or s.reverse or s.replay for s in data.sources.values()),
            "heads see a part of the tokens (loss.keep=1, loss.keep_dense=1)": min(self.loss.keep, self.loss.keep_dense) < 1,
            f"tasks need the pictures ({', '.join(sorted(tasks - set(FROZEN_TASKS)))})": bool(tasks - set(FROZEN_TASKS)),
        }
        return [reason for reason, holds in found.items() if holds]
