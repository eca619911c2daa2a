"""`surg data classes`: a class for every clip, from its motion or from a label it has."""

from pathlib import Path
from typing import Annotated, Any

import typer

from surg.advice import quoted
from surg.cli.data_work import AsJson, Manifest, Settings


def register(app: typer.Typer) -> None:
    app.command("classes")(classes)


def classes(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Manifest to write, with the new label.")],
    motion: Annotated[Path | None, typer.Option("--motion", help="Table of `surg data motion`.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Make classes of this label instead of motion.")] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the new label.")] = "motion_class",
    book: Annotated[
        Path | None, typer.Option("--book", help="Use the classes learnt by an earlier run instead of learning them.")
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Label clips with motion classes (strength by direction). Quantiles and rare classes are judged on the train split alone."""
    import json
    from collections import Counter
    from dataclasses import replace

    import numpy as np

    from surg.config import load_config
    from surg.data import classes as rules
    from surg.data.derive import derive
    from surg.data.manifest import Manifest as ManifestFile
    from surg.errors import ConfigError, DataError

    if (motion is None) == (label is None):
        raise ConfigError("Classes are made from motion or from a label: give one of --motion TABLE and --label NAME.")
    given: dict[str, Any] = {"label": label} if label is not None else {}
    config = load_config(rules.ClassConfig, given, overrides=settings or [])
    source = ManifestFile.read(manifest)
    vectors = rules.vectors_by_clip(motion) if motion is not None else {}
    train = list(source.select(split="train"))
    if not train and book is None:
        raise DataError(
            f"{manifest} has no clips in the split `train`, on which classes are learnt.\nSplit it by case first: surg data split {quoted(manifest)}"
        )
    if book is not None:
        if settings:
            raise ConfigError("--book brings the settings that its classes were learnt with; leave --set out.")
        learnt = rules.ClassBook.load(book)
        rules.require_kind(learnt, config.label)
    elif label is not None:
        learnt = rules.fit_label_classes((clip.labels[label] for clip in train if label in clip.labels), config)
    else:
        measured = [vectors[key] for clip in train if (key := rules.clip_key(clip.video, clip.start_s, clip.end_s)) in vectors]
        if not measured:
            raise DataError(
                f"{motion} measures none of the train clips of {manifest}. Measure them: surg data motion {quoted(manifest)} --out {quoted(motion)}"
            )
        learnt = rules.fit_motion_classes(np.array(measured), config)
    counts: dict[str, Counter[str]] = {}
    dropped = 0
    labelled = []
    for clip in source:
        value = rules.label_clip(clip, vectors.get(rules.clip_key(clip.video, clip.start_s, clip.end_s)), learnt)
        dropped += value is None
        if value is not None:
            counts.setdefault(value, Counter())[clip.split or "-"] += 1
        kept = {key: old for key, old in clip.labels.items() if key != name}
        labelled.append(replace(clip, labels=kept | ({name: value} if value is not None else {})))
    derive(source, out, labelled)
    book_out = out.with_suffix(".classes.json")
    learnt.save(book_out)
    if as_json:
        table = {value: dict(by_split) for value, by_split in counts.items()}
        typer.echo(
            json.dumps({"manifest": str(out), "book": str(book_out), "label": name, "counts": table, "unlabelled": dropped})
        )
        return
    splits = sorted({split for by_split in counts.values() for split in by_split}, key=lambda split: (split != "train", split))
    typer.echo(f"{'class':<20}" + "".join(f"{split:>8}" for split in splits))
    for value in learnt.names:
        typer.echo(f"{value:<20}" + "".join(f"{counts.get(value, Counter())[split]:>8}" for split in splits))
    if dropped:
        typer.echo(f"{dropped} clips have no class (not measured, without the label, or of a dropped class)")
    if learnt.edges:
        typer.echo("Borders of strength, pixels per frame, from train: " + ", ".join(f"{edge:.2f}" for edge in learnt.edges))
    typer.echo(f"Wrote {out} (label `{name}`) and {book_out}")
    typer.echo(f"Next: surg data segment {quoted(out)} --out masks")
