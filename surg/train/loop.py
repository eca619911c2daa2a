"""The training loop, from settings to weights, top to bottom.

    1 where and in which precision    2 weights and clips    3 model and teacher    4 optimiser    5 go on where a killed run stopped
    6 the steps: draw, mask, teach, predict, backward, clip, update, follow; look, validate, save
    7 the sterility head's calibration and thresholds, on val

What step s does depends on (seed, s) and the weights alone: no other state, so that resuming is exact.
"""

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from surg.config import validate as validate_config
from surg.data.preprocess import PreprocessSpec
from surg.errors import ConfigError
from surg.runs import RunFolder
from surg.train import build, drift, frozen, masks, optim, parallel, schedules, states, unfreeze
from surg.train.batches import Ahead, Batch, Reading, read_batch
from surg.train.calibrate import calibrate_bundle
from surg.train.config import TrainConfig
from surg.train.device import is_out_of_memory, make_accelerator, out_of_memory_explained
from surg.train.epochs import EpochBook
from surg.train.finetuned import NAME, write_finetuned
from surg.train.gradients import estimate_fisher, gradients, split_further
from surg.train.inputs import action_classes, check_losses, open_sources
from surg.train.progress import Reporter, duration
from surg.train.signals import Interrupts
from surg.train.sources import Draw, Sampler, Source
from surg.train.teacher import Teacher
from surg.train.trainee import Trainee
from surg.train.trouble import Watchdog
from surg.train.validate import validate
from surg.train.watch import Watch, first_look
from surg.train.whole import whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    run: Path
    checkpoint: Path
    step: int
    loss: float
    interrupted: bool
    seconds: float
    signal: int = 0
    """That ended it early, if one did."""


@out_of_memory_explained()
def train(
    config: TrainConfig, out: Path, *, resume: bool = False, overwrite: bool = False, stop_after: int | None = None
) -> Outcome:
    """Train as `config` says into the run folder `out`. `stop_after` ends early at that step, as an interruption would."""
    began = time.perf_counter()
    accelerator = make_accelerator(config)
    main, world = accelerator.is_main_process, accelerator.num_processes
    if config.batch_size % (world * config.accumulate):
        raise ConfigError(
            f"A batch of {config.batch_size} does not split evenly over {world} processes x {config.accumulate} parts.\n"
            f"Choose a multiple of {world * config.accumulate}: --set batch_size={world * config.accumulate}"
        )
    if not resume and main:
        RunFolder.vacant(out, overwrite=overwrite)
    torch.manual_seed(config.seed)

    # --- what is started from, before hours of decoding
    spec = validate_config(
        PreprocessSpec,
        {
            "size": config.data.size,
            "num_frames": config.data.num_frames,
            "fps": config.data.fps,
            "zone_crop": config.data.zone_crop,
        },
    )
    kept = out / "checkpoints" / "last.safetensors"
    start = build.load_start(config, kept if resume and (out / "checkpoints" / "resume.pt").is_file() else None)
    build.check_shape(config, start)
    build.check_context(config, start.predictor)

    # --- clips
    cache = config.data.cache or out / "cache"
    with accelerator.main_process_first():
        sources = open_sources(config, cache, "train")
        held_out = open_sources(config, cache, "val", like=sources)
    classes = action_classes(config, sources)
    check_losses(config, sources, classes)
    fingerprint = "+".join(source.fingerprint[:16] for source in sources.values())
    clips = sum(len(source.usable) for source in sources.values())
    per_epoch = max(1, math.ceil(clips / config.batch_size))
    steps = config.steps or max(1, round(config.epochs * per_epoch))
    build.check_ramp(config, steps)

    # --- model, teacher, optimiser
    trainee = build.build_trainee(config, start, classes, spec, sources)
    if config.trainable.encoder == "lora":
        build.add_lora(trainee.encoder, config.trainable.lora_rank, config.trainable.lora_alpha)
    trainee.to(accelerator.device)
    predicts = any("jepa" in source.config.tasks for source in sources.values()) and config.loss.weights.jepa > 0
    teacher = Teacher(start.encoder, trainee.levels, frozen=config.teacher.frozen) if predicts else None
    anchor = drift.Anchor(trainee.encoder)
    optimizer = optim.build_optimizer(trainee.named_parameters(), config.optim, len(unfreeze.encoder_blocks(trainee.encoder)))
    if isinstance(optimizer, optim.SelectiveProjection):
        optimizer.anchor({parameter: parameter.detach().clone() for parameter in trainee.encoder.parameters()})
    lengths = unfreeze.stage_lengths(config, steps)
    if main:
        say_decisions(config, accelerator, trainee, sources, steps, per_epoch, lengths, predicts=predicts)

    # --- run folder, or the state of a killed run
    run = (
        RunFolder.reopen(out)
        if resume
        else RunFolder.create(out, config, seed=config.seed, data_fingerprint=fingerprint, overwrite=overwrite)
        if main
        else RunFolder(out)
    )
    done, best, book = 0, math.inf, EpochBook()
    state_path = run.checkpoints / "resume.pt"
    if resume and state_path.is_file():
        state = states.read(state_path)
        done, best = states.restore(state, trainee, teacher, optimizer, anchor, sources)
        book = EpochBook(state.get("epochs"))
        if accelerator.scaler is not None and "scaler" in state:
            accelerator.scaler.load_state_dict(state["scaler"])
        if main:
            logger.info("resuming %s after step %d of %d", out, done, steps)
    if resume and main:
        run.keep_metrics_until(done or -1)
    shape: Any = start.encoder.config
    reading = Reading(
        config.data, trainee.patch, trainee.tubelet, classes, config.model.horizons_s, config.loss.positive_share,
        config.data.num_frames, second_view=any("contrast" in source.config.tasks for source in sources.values()),
        with_flow=config.masks.kind == "mgmae" or config.loss.flow_weight > 0 or any("flow" in s.config.tasks for s in sources.values()),
        features=shape.embed_dim if config.loss.weights.clear else 0, cached=config.data.cache_features,
    )  # fmt: skip
    if config.data.cache_features:
        with accelerator.main_process_first():
            for split, some in (("train", sources), ("val", held_out)):
                frozen.cache_features(trainee, some, split, reading, cache, accelerator)
    sampler = Sampler(sources, config.batch_size, config.seed, order=config.data.order, steps=steps)
    wants_features = config.loss.weights.clear > 0 and not any(source.features for source in sources.values())
    wants_fisher = config.loss.weights.ewc > 0 and not anchor.fisher
    if done and (wants_features or wants_fisher):
        logger.info("the pull to the start is switched on at step %d; it is measured with the weights the run began with", done)
    if wants_features or wants_fisher:
        encoders = [trainee.encoder, *([teacher.encoder] if teacher is not None else [])]
        with anchor.at_start(*encoders) if done else nullcontext():
            if wants_features:
                states.store_features(trainee, sources, reading)
            if wants_fisher:
                estimate_fisher(config, trainee, teacher, sampler, sources, reading, anchor, accelerator)
    sharded = parallel.is_sharded(config, accelerator)
    saved = parallel.Saved(trainee, teacher, sharded=sharded, main=main)
    if sharded:
        by_block = parallel.same_work(sources, classes)
        parallel.shard(trainee, teacher, optimizer, anchor, accelerator, by_block=by_block)
        logger.info(
            "weights, gradients and moments are shared by %d processes; gathered %s",
            world,
            "block by block" if by_block else "whole",
        )
    wrapped: nn.Module = trainee if sharded else accelerator.prepare_model(trainee)
    prepared: Any = accelerator.prepare_optimizer(optimizer)

    def batch_of(step: int) -> tuple[list[Draw], Batch]:
        """The whole batch's draws, and this process's clips of it."""
        _, _, mix = unfreeze.plan_at(step, config, lengths)
        draws = sampler.draw(step, mix)
        frames = config.data.num_frames
        if config.data.curriculum:
            every, unit = config.data.curriculum_every, build.frame_unit(config, start)
            frames = min(frames, schedules.frames_at_epoch((step - 1) // per_epoch, every=every, last=frames, unit=unit))
        return draws, read_batch(draws[accelerator.process_index :: world], sources, reading.longer(frames))

    watch = Watch(config, trainee, held_out, reading, classes) if main or sharded else None
    watchdog = Watchdog(config.optim.lr, config.optim.clip)
    if resume and main:
        # Only now: settings that the saved state does not fit must not become the run's.
        states.note_changes(run, config, fingerprint, trained=done >= steps)
    begun = first_look(run) if done else {}
    if watch is not None and config.watch.every:
        watch.first = begun
        if done == 0:
            begun = watch.look(0)
    reporter = Reporter(
        run if main else None, steps, every=config.log_every, tensorboard=config.tensorboard, curves=config.curves, start=done
    )
    if begun and done == 0:
        reporter.write("watch", 0, begun)
    bundles = states.Bundles(run, config, spec, classes, start, fingerprint, sources)
    weights = config.loss.weights.model_dump()
    accumulate, learns, total, step = config.accumulate, None, math.nan, done
    last = min(steps, stop_after or steps)
    with reporter, Interrupts() as interrupts:
        for step, (draws, batch) in Ahead(
            batch_of, iter(range(done + 1, last + 1)), depth=max(2, config.data.workers), workers=max(1, config.data.workers)
        ):
            number, now_learns, _ = unfreeze.plan_at(step, config, lengths)
            if now_learns != learns:
                awake = unfreeze.apply(trainee, now_learns)
                optim.forget(optimizer, [parameter for parameter in trainee.parameters() if not parameter.requires_grad])
                learns = now_learns
                if main:
                    logger.info(
                        "step %d, stage %d: %s numbers learn (encoder: %s)", step, number + 1, f"{awake:,}", describe(learns)
                    )
            lr = schedules.scheduled_rate(step, steps, config.optim.lr, config.schedule)
            final_decay = (
                config.optim.weight_decay if config.optim.final_weight_decay is None else config.optim.final_weight_decay
            )
            decay = schedules.weight_decay(
                step, steps=steps * config.schedule.stretch, start=config.optim.weight_decay, final=final_decay
            )
            optim.set_rates(optimizer, lr, decay)

            batch = batch.to(accelerator.device)
            if sharded:
                parallel.share_buffers(trainee)
            while True:
                try:
                    values = gradients(
                        accelerator,
                        wrapped,
                        trainee,
                        teacher,
                        batch,
                        draws,
                        config,
                        step,
                        accumulate,
                        sources,
                        weights,
                        classes,
                    )
                    break
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    prepared.zero_grad(set_to_none=True)
                    accumulate = split_further(error, config, accumulate, world, out)
            if sharded:
                parallel.drop_unused(trainee)
            # fp16's gradients are scaled up; the pull is not.
            accelerator.unscale_gradients()
            penalties = anchor.pull(trainee.encoder, config.loss.weights.anchor, config.loss.weights.ewc)
            values.update({name: float(value) for name, value in penalties.items()})
            total = sum(weights.get(name, 1.0) * values[name] for name in values if name not in penalties) + sum(
                values[n] for n in penalties
            )
            watchdog.see(step, total, values)
            norm = float(whole(nn.utils.clip_grad_norm_(wrapped.parameters(), config.optim.clip or math.inf)))
            if accelerator.scaler is None:  # a scaler passes over such steps by itself
                watchdog.see_gradient(step, norm)
            prepared.step()
            prepared.zero_grad(set_to_none=True)
            if teacher is not None:
                final = config.teacher.momentum if config.teacher.final_momentum is None else config.teacher.final_momentum
                teacher.follow(
                    trainee.encoder,
                    schedules.teacher_momentum(
                        step, steps=steps * config.schedule.stretch, start=config.teacher.momentum, final=final
                    ),
                )

            book.add({**values, "loss": total})
            reporter.step(step, {"loss": total, **values, "grad_norm": norm, "lr": lr}, config.batch_size)
            if main and (step % per_epoch == 0 or step == steps):
                book.close(-(-step // per_epoch))
            stop = parallel.anyone(bool(interrupts.asked), accelerator) or step == last
            epoch_ends = step % per_epoch == 0
            if watch is not None and ((config.watch.every and step % config.watch.every == 0) or step == steps):
                reporter.write(
                    "watch", step, {**watch.look(step), **{f"drift_{k}": v for k, v in anchor.drift(trainee.encoder).items()}}
                )
            if step == steps and config.drift.wise is not None:
                anchor.average(trainee.encoder, config.drift.wise)
                if teacher is not None and config.teacher.export:
                    anchor.average(teacher.encoder, config.drift.wise)
            if held_out and (step == steps or (step % config.validate_every == 0 if config.validate_every else epoch_ends)):
                scores = validate(trainee, teacher, held_out, reading, config, accelerator, accumulate * world)
                judged = -scores["score"] if config.choose_by == "score" and "score" in scores else scores.get("loss", math.inf)
                # The average was asked for: what was best before it does not stand in for it.
                averaged = step == steps and config.drift.wise is not None
                is_best = parallel.anyone(main and (judged < best or (averaged and judged < math.inf)), accelerator)
                if main and scores:
                    reporter.write("val", step, scores)
                    shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
                    logger.info("validation at step %d: %s%s", step, shown, "  saved best" if is_best else "")
                elif main:
                    logger.warning(
                        "validation at step %d: no clip of val has what these losses need (labels, or a row of the motion table)",
                        step,
                    )
                if is_best:
                    best = judged
                    full, slow = saved.now()
                    if main:
                        bundles.save("best", full, slow, step, scores)
                        if config.guide_checkpoint:
                            step_s = trainee.tubelet / config.data.fps
                            write_finetuned(run.checkpoints / NAME, full, -(-step // per_epoch), scores["loss"], step_s)
            if step % config.save_every == 0 or stop or step == steps:
                full, slow = saved.now()
                state = states.collect(step, best, trainee, teacher, optimizer, anchor, sources)
                state["epochs"] = book.kept()
                if accelerator.scaler is not None:
                    state["scaler"] = accelerator.scaler.state_dict()
                if main:
                    bundles.save("last", full, slow, step, {"loss": total})
                    states.write(state_path, state)
                    if config.guide_checkpoint and step == steps and best == math.inf:
                        # Nothing was there to choose on: the last is the best.
                        write_finetuned(
                            run.checkpoints / NAME, full, -(-step // per_epoch), total, trainee.tubelet / config.data.fps
                        )
            if stop:
                break
    reporter.close()
    # A run that was finished before it could calibrate does so when it is resumed.
    if main and step == steps and "sterility" in trainee.heads and config.loss.weights.sterility:
        for name in ("best", "last"):
            if (path := run.checkpoints / f"{name}.safetensors").is_file():
                calibrate_bundle(path, trainee, held_out, reading, config.calibrate, accelerator)
    accelerator.wait_for_everyone()
    seconds = time.perf_counter() - began
    if main:
        logger.info(
            "%s at step %d of %d after %s", "stopped and saved" if step < steps else "finished", step, steps, duration(seconds)
        )
    chosen = run.checkpoints / ("best.safetensors" if best < math.inf else "last.safetensors")
    return Outcome(run.path, chosen, step, total, step < steps, seconds, interrupts.asked)


def describe(learns: Any) -> str:
    extra = {"prefix": f" {learns.depth:.0%}", "last": f" {learns.blocks}", "lora": f" rank {learns.lora_rank}"}
    return str(learns.encoder) + extra.get(learns.encoder, "")


def say_decisions(
    config: TrainConfig,
    accelerator: Accelerator,
    trainee: Trainee,
    sources: dict[str, Source],
    steps: int,
    per_epoch: int,
    lengths: list[int],
    *,
    predicts: bool,
) -> None:
    """Every derived value with its reason, before the first step."""
    clips = ", ".join(f"{name} {len(source.usable)}" for name, source in sources.items())
    heads = ", ".join(f"{name} {build.count(head):,}" for name, head in trainee.heads.items()) or "none"
    logger.info(
        "recipe %s on %s, precision %s, %d process(es), %d thread(s)",
        config.recipe,
        accelerator.device,
        accelerator.mixed_precision,
        accelerator.num_processes,
        torch.get_num_threads(),
    )
    logger.info(
        "encoder %s numbers, predictor %s, heads: %s",
        f"{build.count(trainee.encoder):,}",
        f"{build.count(trainee.predictor):,}" if trainee.predictor else "none",
        heads,
    )
    why = "as set" if config.steps else f"{config.epochs:g} epochs x {per_epoch} batches"
    logger.info("clips: %s; batch %d in %d part(s); steps %d = %s", clips, config.batch_size, config.accumulate, steps, why)
    if len(lengths) > 1:
        logger.info("stages: %s steps", ", ".join(map(str, lengths)))
    warmup, peak = round(steps * config.schedule.warmup), config.optim.lr
    if warmup > steps:
        ends = schedules.scheduled_rate(steps, steps, peak, config.schedule)
        logger.warning(
            "the warm-up of %d steps is longer than the run of %d: the rate ends at %.2e and never reaches %.2e",
            warmup,
            steps,
            ends,
            peak,
        )
    if predicts:
        side = config.data.size // trainee.patch
        shape = (config.data.num_frames // trainee.tubelet, side, side)
        # Masks along the flow are as large whatever moves.
        still = torch.zeros(config.batch_size, *shape, 2)
        logger.info(
            "%s", masks.describe(masks.draw_masks(config.masks, shape, config.batch_size, config.seed, 1, still), shape)
        )
