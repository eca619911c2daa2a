"""Pictures of results, PNG and SVG, readable in grey: shapes, hatches and labels carry the meaning, colour only helps."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from surg.errors import ConfigError
from surg.eval.results import Metric, Plot
from surg.runs import atomic_file

Array = npt.NDArray[Any]
Projection = Literal["auto", "umap", "pca"]

# Okabe & Ito's colours, in an order of falling lightness steps, with markers and hatches beside them.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#000000")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "--", "oo")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Any, folder: Path, stem: str, title: str, caption: str = "") -> Plot:
    for suffix in ("png", "svg"):
        with atomic_file(Path(folder) / f"{stem}.{suffix}") as file:
            # No date inside: the same numbers give the same file.
            figure.savefig(file, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
    return Plot(title, stem, caption)


def bars(
    rows: Sequence[tuple[str, Metric]],
    folder: Path,
    stem: str,
    title: str,
    *,
    chance: float | None = None,
    xlabel: str = "top-1",
) -> Plot:
    """Horizontal bars with their intervals, the first row on top."""
    figure, axes = _figure(7.5, 0.9 + 0.38 * len(rows))
    for place, (name, metric) in enumerate(reversed(rows)):
        axes.barh(
            place,
            metric.value,
            height=0.68,
            color=COLOURS[0] if metric.low is not None else COLOURS[6],
            edgecolor="#222",
            linewidth=0.6,
        )
        end = metric.value
        if metric.low is not None and metric.high is not None:
            axes.errorbar(
                metric.value,
                place,
                xerr=[[metric.value - metric.low], [metric.high - metric.value]],
                color="#222",
                capsize=3,
                lw=1,
            )
            end = max(metric.high, metric.value)
        axes.text(end + 0.012, place, f"{metric.value:.3f}", va="center", fontsize=8)
        axes.text(-0.01, place, name, va="center", ha="right", fontsize=8, transform=axes.get_yaxis_transform())
    if chance is not None:
        axes.axvline(chance, color="#444", ls=":", lw=1)
        axes.text(chance, len(rows) - 0.4, " chance", fontsize=7, color="#444")
    axes.set_yticks([])
    axes.set_xlim(0, max(1.0, max((m.high or m.value) for _, m in rows) + 0.1))
    axes.set_xlabel(f"{xlabel}   (whiskers: 95 % interval over cases)", fontsize=8)
    return save(figure, folder, stem, title)


def confusion(counts: Array, classes: Sequence[str], folder: Path, stem: str, title: str) -> Plot:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = max(4.2, 0.55 * len(classes) + 2)
    figure, axes = _figure(size + 0.8, size)
    image = axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    show_numbers = len(classes) <= 20
    for i in range(len(classes)):
        for j in range(len(classes)):
            if counts[i, j] and show_numbers:
                axes.text(
                    j,
                    i,
                    str(counts[i, j]),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if shares[i, j] > 0.5 else "black",
                )
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    return save(figure, folder, stem, title, "Counts of clips; the shade is the share of the row.")


def curves(
    lines: Mapping[str, tuple[Array, Array]],
    folder: Path,
    stem: str,
    title: str,
    xlabel: str,
    ylabel: str,
    *,
    logx: bool = False,
    logy: bool = False,
) -> Plot:
    figure, axes = _figure(6.6, 3.6)
    for index, (name, (x, y)) in enumerate(lines.items()):
        style = {"color": COLOURS[index % 8], "marker": MARKERS[index % 8] if len(x) <= 60 else None, "ms": 3.5, "lw": 1.4}
        axes.plot(x, y, label=name, ls=("-", "--", "-.", ":")[index % 4], **style)
    if logx:
        axes.set_xscale("log")
    if logy:
        axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25)
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False)
    return save(figure, folder, stem, title)


def blocks(
    lines: Mapping[str, Sequence[float]], names: Sequence[str], folder: Path, stem: str, title: str, ylabel: str
) -> Plot:
    """A value for each part of a network, in order; a line each run or step, later ones darker."""
    figure, axes = _figure(max(5.0, 0.42 * len(names) + 2.2), 3.4)
    for index, (name, values) in enumerate(lines.items()):
        shade = f"{0.65 * (1 - (index + 1) / len(lines)):.2f}"
        axes.plot(
            range(len(values)), values, label=name, color=shade, marker=MARKERS[index % 8], ms=4.5, lw=1.3,
            ls=("-", "--", "-.", ":")[index % 4], markerfacecolor="white" if index % 2 else shade,
        )  # fmt: skip
    turned = {"rotation": 30, "ha": "right"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(len(names)), names, fontsize=8, **turned)
    axes.set_xlabel("block")
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25, axis="y")
    axes.legend(fontsize=8, frameon=False)
    return save(figure, folder, stem, title)


def reliability(lines: Mapping[str, Sequence[tuple[float, float, int]]], folder: Path, stem: str, title: str) -> Plot:
    """Points (claimed, held, count) of each model against the diagonal."""
    figure, axes = _figure(4.6, 4.2)
    axes.plot([0, 1], [0, 1], color="#888", ls=":", lw=1)
    for index, (name, points) in enumerate(lines.items()):
        x, y, n = (np.array(column, float) for column in zip(*points))
        axes.plot(x, y, color=COLOURS[index % 8], lw=1, ls=("-", "--", "-.", ":")[index % 4], label=name)
        axes.scatter(
            x, y, s=8 + 60 * n / n.max(), marker=MARKERS[index % 8], color=COLOURS[index % 8], edgecolor="white", lw=0.5
        )
    axes.set_xlabel("claimed probability")
    axes.set_ylabel("share that held")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8, frameon=False)
    return save(
        figure,
        folder,
        stem,
        title,
        "On the dotted line a claim of 0.8 holds 8 times of 10. Marker size is the number of clips.",
    )


def embedding(points: Array, labels: Sequence[str], folder: Path, stem: str, title: str, caption: str) -> Plot:
    """A plane of features (N, 2), one shape and colour per label."""
    figure, axes = _figure(6.4, 4.8)
    names = sorted(set(labels))
    for index, name in enumerate(names):
        rows = np.array([label == name for label in labels])
        axes.scatter(
            points[rows, 0],
            points[rows, 1],
            s=14,
            marker=MARKERS[index % 8],
            color=COLOURS[index % 8],
            alpha=0.75,
            lw=0,
            label=name,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return save(figure, folder, stem, title, caption)


def timeline(
    times: Array,
    scores: Mapping[str, Array],
    truth: Sequence[tuple[float, float]],
    alarms: Sequence[tuple[float, float]],
    threshold: float,
    folder: Path,
    stem: str,
    title: str,
    *,
    missed: Sequence[tuple[float, float]] = (),
    false: Sequence[tuple[float, float]] = (),
) -> Plot:
    """One take: true events as a band on top, scores below, alarms as a band at the foot."""
    figure, axes = _figure(9.5, 2.7)
    for index, (name, values) in enumerate(scores.items()):
        axes.plot(
            times, values, lw=1.2, color=("#222", "#888", COLOURS[0])[index % 3], ls=("-", "--", ":")[index % 3], label=name
        )
    axes.axhline(threshold, color="#444", ls=":", lw=1)
    axes.text(times[0], threshold, " threshold", fontsize=7, va="bottom", color="#444")
    for start, end in truth:
        axes.axvspan(start, end, color="#bbb", alpha=0.5, lw=0)
        axes.broken_barh(
            [(start, max(end - start, 0.3))],
            (1.04, 0.08),
            color="#E69F00",
            hatch="//" if (start, end) in set(missed) else "",
            edgecolor="#222",
            lw=0.5,
        )
    for start, end in alarms:
        bad = (start, end) in set(false)
        axes.broken_barh(
            [(start, max(end - start, 0.3))],
            (-0.14, 0.08),
            color="white" if bad else "#0072B2",
            hatch="xx" if bad else "",
            edgecolor="#222",
            lw=0.5,
        )
    axes.set_ylim(-0.18, 1.16)
    axes.set_yticks([-0.1, 0, 0.5, 1, 1.08], ["alarms", "0", "0.5", "1", "truth"], fontsize=7)
    axes.set_xlim(float(times[0]), float(times[-1]) + 1e-6)
    axes.set_xlabel("seconds")
    axes.legend(fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1, 1.0), ncol=3)
    return save(figure, folder, stem, title, "Top: true events (hatched: missed). Foot: alarms (crossed white: false).")


def frames_strip(pictures: Sequence[tuple[str, Array]], folder: Path, stem: str, title: str, caption: str = "") -> Plot:
    """Named pictures (H, W, 3) side by side, at most 12."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    shown = list(pictures)[:12]
    columns = min(6, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.75 * columns, 1.95 * rows), dpi=110, layout="constrained")
    for index, (name, picture) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(picture)
        axes.set_title(name, fontsize=6.5)
        axes.axis("off")
    return save(figure, folder, stem, title, caption)


def project(vectors: Array, seed: int = 0, method: Projection = "auto") -> tuple[Array, str]:
    """Two dimensions of (N, D). `auto`: UMAP when it is installed, else PCA. Returns the points and the method's name."""
    if method != "pca" and len(vectors) > 2:
        try:
            from umap import UMAP  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            if method == "umap":
                raise ConfigError("UMAP is not installed (pip install umap-learn); --method pca needs nothing more.") from None
        else:
            return np.asarray(UMAP(random_state=seed, n_jobs=1).fit_transform(vectors)), "UMAP"
    from sklearn.decomposition import PCA

    if len(vectors) < 2:
        return np.zeros((len(vectors), 2)), "PCA"
    model = PCA(n_components=min(2, vectors.shape[1]), random_state=seed)
    points = model.fit_transform(vectors)
    return points, f"PCA, {model.explained_variance_ratio_.sum():.0%} of the variance"
