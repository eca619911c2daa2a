"""The tissue simulator: endoscopic clips of eight tool motions that only the order of their frames tells apart.

A case is a simulated procedure of up to eight clips, one per action, which share their surface and endoscope.
    OUT/manifest.parquet   OUT/videos/CASE-N.mp4   OUT/truth/CASE-N.npz (see `truth_of`)
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from surg.data.manifest import Clip
from surg.data.synth.export import Item, check_request, row, save_truth, split_cases, write_clips
from surg.data.synth.tissue_scene import Frame, TissueCase, TissueClip
from surg.data.synth.tissue_script import ACTIONS as MOTIONS
from surg.data.synth.tissue_script import FACTORS, Script, write_script
from surg.data.synth.version import LICENCE, SIMULATOR_VERSION, generator
from surg.data.video import write_video

ACTIONS = tuple(MOTIONS)
FAMILIES = ("a", "b")
FPS = 4.0
"""Frames a second, as in the room and as V-JEPA 2 was trained; a power of two, so that frame times are exact."""
FRAMES = 16
CLIPS_PER_CASE = 8


def generate(
    out: Path,
    clips: int,
    seed: int,
    family: str = "a",
    workers: int | None = None,
    *,
    size: int = 224,
    split: str | None = None,
) -> Path:
    """Render `clips` clips of an appearance family ("a" to train on, "b" held out). Returns the manifest's path.

    Cases are dealt to train, val and test (70/10/20) unless `split` names one side for all.
    """
    check_request(clips, family, FAMILIES, size)
    cases = -(-clips // CLIPS_PER_CASE)
    items: list[Item] = [
        {
            "simulator": f"tissue {SIMULATOR_VERSION}",
            "out": str(out),
            "seed": seed,
            "family": family,
            "case": case,
            "split": side,
            "clips": min(CLIPS_PER_CASE, clips - case * CLIPS_PER_CASE),
            "size": size,
        }
        for case, side in enumerate(split_cases(seed, cases, split))
    ]
    return write_clips(render_case, items, Path(out), workers)


def render_case(item: Item) -> list[dict[str, str]]:
    cv2.setNumThreads(1)
    out, seed, family, number, size = Path(item["out"]), item["seed"], item["family"], item["case"], item["size"]
    case = TissueCase(seed, family, number, size)
    order = generator(seed, "tissue actions", family, number).permutation(len(ACTIONS))
    rows = []
    for index in range(item["clips"]):
        name = f"tissue-{family}{seed}-{number:05d}"
        clip_number = number * CLIPS_PER_CASE + index
        rng = generator(seed, "tissue script", family, clip_number)
        script = write_script(rng, ACTIONS[order[index]], FRAMES)
        scene = TissueClip(case, seed, clip_number, script)
        frames = list(scene.render())
        video, truth = out / "videos" / f"{name}-{index}.mp4", out / "truth" / f"{name}-{index}.npz"
        # Coding is a nuisance like any other: the quality is drawn per clip.
        quality = int(rng.integers(18, 29))
        write_video(video, [frame.picture for frame in frames], FPS, crf=quality, repeatable=True)
        save_truth(truth, truth_of(script, frames))
        labels: dict[str, str | float | int] = {"action": script.action, "family": family}
        rows.append(
            row(
                Clip(
                    video=str(video.absolute()),
                    start_s=0.0,
                    end_s=(FRAMES - 1) / FPS,
                    case=name,
                    split=item["split"],
                    source="synth-tissue",
                    licence=LICENCE,
                    labels=labels,
                    masks=str(truth.absolute()),
                    meta={
                        "simulator": SIMULATOR_VERSION,
                        "seed": str(seed),
                        "fps": f"{FPS:g}",
                        "crf": str(quality),
                        "grasper": f"{scene.grasper.kind}, {scene.grasper.finish}",
                        "worker": f"{scene.worker.kind}, {scene.worker.finish}",
                    },
                )
            )
        )
    return rows


def truth_of(script: Script, frames: list[Frame]) -> dict[str, np.ndarray[Any, Any]]:
    """What the picture shows, exactly.

    ids (T, S, S): 0 tissue, 1 grasper, 2 working tool.  mover: which of them does the action.  tips (T, 2, 2): x, y of both tips, pixels.
    camera (T, 2, 3): from the scene to each frame.  One array (T,) per factor, 0..1: depth, jaw, pull, swing.
    """
    return {
        "ids": np.stack([frame.ids for frame in frames]),
        "tips": np.stack([frame.tips for frame in frames]).astype(np.float32),
        "camera": np.stack([frame.camera for frame in frames]).astype(np.float32),
        "mover": np.array(1 if MOTIONS[script.action][0] == "pull" else 2),
        **{factor: getattr(script, factor).astype(np.float32) for factor in FACTORS},
    }
