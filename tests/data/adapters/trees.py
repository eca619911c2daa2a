"""Small made-up trees of the data sets, written from their public descriptions: layout, file formats and known traps.

Nothing here comes from the readers under test. Videos are a few seconds of grey, written with PyAV; pictures with OpenCV.
"""

import json
import pickle
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

# ------------------------------------------------------------------ files


def video(path: Path, seconds: float, fps: int = 5, size: tuple[int, int] = (48, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    container_format = {".avi": "avi", ".webm": "matroska"}.get(path.suffix, "mp4")
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(round(seconds * fps)):
            grey = np.full((size[1], size[0], 3), (17 * index) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def picture(path: Path, grey: int = 120, size: tuple[int, int] = (24, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), grey, np.uint8))
    return path


def text(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def dump(path: Path, value: Any) -> Path:
    return text(path, [json.dumps(value)])


# ------------------------------------------------------------------ SurgVU

TASKS_HEADER = ",start_part,start_time,stop_part,stop_time,groundtruth_taskname"
TOOLS_HEADER = (
    ",install_case_part,install_case_time,uninstall_case_part,uninstall_case_time,arm,commercial_toolname,groundtruth_toolname"
)


def surgvu(root: Path) -> Path:
    """Case 001 in two parts of 8 and 6 s; case 125 is in the public sample; a Mac zipped it."""
    for part, seconds in ((1, 8), (2, 6)):
        video(root / f"surgvu24/case_001/case_001_video_part_{part:03d}.mp4", seconds)
    video(root / "surgvu24/case_125/case_125_video_part_001.mp4", 4)
    text(root / "surgvu24/__MACOSX/case_002/._case_002_video_part_001.mp4", ["junk"])
    text(root / "surgvu24/case_001/._case_001_video_part_003.mp4", ["junk"])
    tasks = [
        TASKS_HEADER,
        "0,1,1.0,1,3.5,Suturing",
        "1,1,5.0,2,2.5,Range of motion",
        "2,1,5.0,2,2.5,Range of motion",
        "3,2,3.0,2,5.0,Other",
    ]
    tools = [
        TOOLS_HEADER,
        "0,1.0,00:00:01.000000,1.0,00:00:04.500000,USM1,Large Needle Driver,needle driver",
        "1,1.0,00:00:00.000000,2.0,00:00:06.000000,USM2,nan(camera in),nan(camera in)",
        "2,2.0,00:00:01.250000,2.0,00:00:03.000000,USM3,Something,",
    ]
    text(root / "labels/case_001/tasks.csv", tasks)
    text(root / "labels/case_001/tools.csv", tools)
    text(root / "labels/case_125/tasks.csv", [TASKS_HEADER, "0,1,0.0,1,2.0,Suturing"])
    text(root / "labels/case_125/tools.csv", [TOOLS_HEADER])
    return root


# ------------------------------------------------------------------ MM-OR and 4D-OR


def _take(folder: Path, take: str, suffix: str, stamps: Sequence[float], first_image: int) -> None:
    """Two azure cameras; picture numbers begin anywhere and have nothing to do with the index."""
    entries = []
    for index, stamp in enumerate(stamps):
        image = first_image + 3 * index
        entries.append([str(stamp), {"azure": f"{image:06d}", "simstation": 500 + index, "trackercam": f"{index}"}, "more"])
        for camera in (1, 2):
            picture(folder / f"colorimage/camera0{camera}_colorimage-{image:06d}.jpg", grey=20 + 10 * index)
        picture(folder / f"simstation/camera00_{500 + index:06d}.jpg")
        picture(folder / f"trackercam/{index:06d}.jpg")
    dump(folder / f"timestamp_to_pcd_and_frames_list{suffix}.json", entries)


def mmor(root: Path) -> Path:
    """001_PKA alone in its folder; 015_PKA and 016_PKA share one, where the plain list is 015's; 004_PKA; 010_PKA."""
    base = root / "MM-OR_data"
    epoch = 1_700_000_000
    _take(base / "001_PKA", "001_PKA", "", [epoch + index for index in range(8)], first_image=100)
    _take(base / "004_PKA", "004_PKA", "", [epoch + index for index in range(4)], first_image=0)
    _take(base / "010_PKA", "010_PKA", "_azure", [epoch + index for index in range(4)], first_image=0)
    shared = base / "015-018_PKA"
    _take(shared, "015_PKA", "", [epoch + index for index in range(4)], first_image=1000)
    _take(shared, "016_PKA", "_016_PKA", [epoch + 100 + index for index in range(5)], first_image=2000)
    breach = {f"{index:06d}": [] for index in range(6)} | {"000003": [["nurse", "mps", "touching"]]}
    dump(base / "take_timestamp_to_sterility_breach/001_PKA.json", breach)
    for take, count in (("004_PKA", 4), ("010_PKA", 4), ("015_PKA", 4), ("016_PKA", 5)):
        dump(base / f"take_timestamp_to_sterility_breach/{take}.json", {f"{index:06d}": [] for index in range(count)})
    actions = {"000000": ["drill", 3.0], "000001": ["drill", 2.0], "000002": None, "000003": ["saw", 1.5]}
    dump(base / "take_timestamp_to_next_action/001_PKA.json", actions)
    for take in ("001_PKA", "004_PKA"):
        dump(base / f"take_timestamp_to_robot_phase/{take}.json", {"000000": "Turn On", "000001": "turn on "})
    graphs = [
        {"take_name": "001_PKA_MMOR", "frame_id": "000002", "relationships": [["nurse", "mps", "touching"]]},
        {"take_name": "004_4DOR", "frame_id": "000001", "relationships": [["circulator", "patient", "closeTo"]]},
    ]
    dump(root / "scene_graph_generation/data/relationships_train.json", graphs)
    return root


def fourdor(root: Path) -> Path:
    for take in (1, 4):
        folder = root / f"export_holistic_take{take}_processed"
        entries = []
        for index in range(3):
            entries.append([1_600_000_000_000 + 1000 * index, {f"color_{camera}": f"{7 + index:06d}" for camera in (1, 2)}])
            for camera in (1, 2):
                picture(folder / f"colorimage/camera0{camera}_colorimage-{7 + index:06d}.jpg")
        dump(folder / "timestamp_to_pcd_and_frames_list.json", entries)
    graph = [{"take_name": "004_4DOR", "frame_id": "000001", "relationships": [["circulator", "patient", "closeTo"]]}]
    dump(root / "relationships_validation.json", graph)
    return root


# ------------------------------------------------------------------ Strasbourg

PHASES_25FPS = ("Preparation", "CalotTriangleDissection", "ClippingCutting")


def cholec80(root: Path, numbers: Sequence[int] = (1, 33, 41)) -> Path:
    """Phases of 2, 3 and 1 s at every one of 25 frames a second; tools at every 25th frame."""
    frames = [phase for phase, seconds in zip(PHASES_25FPS, (2, 3, 1)) for _ in range(25 * seconds)]
    for number in numbers:
        video(root / f"videos/video{number:02d}.mp4", 6)
        phases = [f"{index}\t{phase}" for index, phase in enumerate(frames)]
        text(root / f"phase_annotations/video{number:02d}-phase.txt", ["Frame\tPhase", *phases])
        tools = [f"{25 * second}\t{second % 2}\t0\t1\t0\t0\t0\t0" for second in range(6)]
        header = "Frame\tGrasper\tBipolar\tHook\tScissors\tClipper\tIrrigator\tSpecimenBag"
        text(root / f"tool_annotations/video{number:02d}-tool.txt", [header, *tools])
        text(root / f"phase_annotations/video{number:02d}-timestamp.txt", ["Frame\tPhase"])
    return root


def _triplet(triplet: int, tool: int, phase: int, box: Sequence[float] = (-1, -1, -1, -1)) -> list[float]:
    return [triplet, tool, 1, *box, 2 if triplet >= 0 else -1, 0 if triplet >= 0 else -1, 1, -1, -1, -1, -1, phase]


def cholect50(root: Path) -> Path:
    """12 frames at 1 per second: frame 5 blacked out, frames 8 and 9 without a triplet, keys in the order of text."""
    for name in ("VID01", "VID08", "VID111"):
        for index in range(12):
            noise = root / f"videos/{name}/{index:06d}.png"
            if index == 5:
                picture(noise, grey=0, size=(854, 480))
            else:
                picture(noise, grey=90 + index)
        annotations = {}
        for index in range(12):
            rows = [_triplet(17, 0, 0 if index < 10 else 1), _triplet(60, 2, 0 if index < 10 else 1, (0.1, 0.2, 0.3, 0.4))]
            annotations[str(index)] = [_triplet(-1, -1, 0)] if index in (8, 9) else rows
        categories = {
            "triplet": {"17": "grasper,retract,gallbladder", "60": "hook,dissect,gallbladder"},
            "instrument": {"0": "grasper", "2": "hook"},
            "verb": {"2": "dissect"},
            "target": {"0": "gallbladder"},
            "phase": {"0": "preparation", "1": "carlot-triangle-dissection"},
        }
        content = {
            "video": int(name[3:]),
            "fps": 1,
            "num_frames": 12,
            "categories": categories,
            "annotations": {key: annotations[key] for key in sorted(annotations)},
        }
        dump(root / f"labels/{name}.json", content)
    return root


def cholectrack20(root: Path) -> Path:
    for folder, name in (("Training", "VID02"), ("Testing", "VID111")):
        annotations = {}
        for frame in (26, 51, 76, 151, 176):
            row = {
                "instrument": 2,
                "phase": 0 if frame < 100 else 1,
                "tool_bbox": [0.1, 0.2, 0.3, 0.4],
                "intraoperative_track": 1,
            }
            annotations[str(frame)] = [row]
            if folder == "Training":
                picture(root / folder / name / f"Frames/{frame:06d}.png")
        if folder == "Testing":
            video(root / folder / name / f"{name}.mp4", 8)
        dump(root / folder / name / f"{name}.json", {"info": {}, "annotations": annotations})
    return root


def autolaparo(root: Path) -> Path:
    for number in (1, 11, 15):
        video(root / f"videos/{number:02d}.mp4", 5)
        rows = [f"{index + 1}\t{phase}" for index, phase in enumerate((2, 2, 2, 7, 7))]
        text(root / f"labels/label_{number:02d}.txt", ["Frame\tPhase", *rows])
    return root


def multibypass140(root: Path) -> Path:
    """Fold 0 of Bern as pickles, with segments beside it; frames img1.jpg … img12.jpg."""
    labels = root / "labels/bern"
    for case in ("BBP01", "BBP03"):
        for index in range(1, 13):
            picture(root / f"BernBypass70/frames/{case}/img{index}.jpg")
        dump(labels / f"labels_by70/{case}.mp4.json", _bypass_segments())
    rows = [
        {
            "Frame_id": f"BBP01_{index + 1:08d}",
            "Original_frame_id": index,
            "Phase_gt": int(index >= 4),
            "Step_gt": 5,
            "unique_id": index,
        }
        for index in range(12)
    ]
    splits = labels / "labels_by70_splits/labels"
    for path, content in (
        (splits / "train/1fps_100_0.pickle", {"BBP01": rows}),
        (splits / "train/1fps_100_1.pickle", {"BBP03": rows}),
        (splits / "train/1fps_0.pickle", {"BBP09": rows}),
        (splits / "test/1fps_0.pickle", {"BBP03": rows}),
        (splits / "test/1fps_1.pickle", {"BBP01": rows}),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content))
    return root


def _bypass_segments() -> dict[str, Any]:
    return {
        "phases": [
            {"start": 0, "end": 4000, "label_name": "preparation", "label_id": 0},
            {"start": 4000, "end": 12000, "label_name": "gastric pouch creation", "label_id": 1},
            {"start": 6000, "end": 8000, "label_name": "out_of_body", "label_id": 12},
            {"start": 9000, "end": 9500, "label_name": "severe_index", "label_id": 13},
        ],
        "steps": [{"start": 0, "end": 12000, "label_name": "step five", "label_id": 5}],
    }


# ------------------------------------------------------------------ others


def sarrarp50(root: Path) -> Path:
    """video_01 numbers its frames at 60 per second, video_02 has pictures only, video_11 was cut in two, 45 is test."""
    classes = [0] * 10 + [1] * 20
    for part, name in (("train1", "video_01"), ("train1", "video_11_1"), ("train1", "video_11_2"), ("test", "video_45")):
        folder = root / part / name
        video(folder / "video_left.avi", 3, fps=10)
        text(folder / "action_discrete.txt", [f"{6 * index:09d},{value}" for index, value in enumerate(classes)])
        for second in range(3):
            picture(folder / f"segmentation/{60 * second:09d}.png", 10 + second)
    folder = root / "train2/video_02"
    for index in range(30):
        picture(folder / f"rgb/{6 * index:09d}.png")
    text(folder / "action_discrete.txt", [f"{6 * index},{value}" for index, value in enumerate(classes)])
    return root


def jigsaws(root: Path) -> Path:
    """Knot tying by surgeons C and H; H's second trial has no usable video. Both cameras; kinematics of 76 columns."""
    task = root / "Knot_Tying"
    meta = []
    for trial in ("C001", "C002", "H002"):
        name = f"Knot_Tying_{trial}"
        for camera in (1, 2):
            video(task / f"video/{name}_capture{camera}.avi", 3, fps=30)
        text(task / f"transcriptions/{name}.txt", ["31 60 G1 ", "61 75 G13 "])
        rows = []
        for frame in range(90):
            values = np.zeros(76)
            for first, side in ((38, -1.0), (57, 1.0)):
                turn = np.radians(170.0 + frame)
                values[first : first + 3] = (0.01 * frame * side, 0.02 * frame, 0.0)
                values[first + 3 : first + 12] = (np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1)
                values[first + 18] = 0.5
            rows.append("  ".join(f"{value:.6f}" for value in values))
        text(task / f"kinematics/AllGestures/{name}.txt", rows)
        meta.append(f"{name}\tI\t14\t2\t3\t2\t2\t3\t2")
    text(task / "meta_file_Knot_Tying.txt", meta)
    setup = root / "Experimental_setup/Knot_Tying/unBalanced/GestureClassification/OneTrialOut/1_Out/itr_1"
    text(setup / "Train.txt", ["Knot_Tying_C001_000031_000060.txt         Knot_Tying_C001.txt"])
    text(setup / "Test.txt", ["Knot_Tying_C002_000031_000060.txt         Knot_Tying_C002.txt"])
    return root


def endoscapes(root: Path) -> Path:
    """Two videos in one folder of each part, numbered by frames at 25 fps; every fifth picture is rated."""
    for split, videos in (("train", (1, 2)), ("test", (190,))):
        images = []
        for number in videos:
            for second in range(11):
                frame = 5000 + 25 * second
                picture(root / split / f"{number}_{frame}.jpg")
                if second % 5 == 0:
                    ds = [1.0, 0.66, 0.33] if second < 10 else [1.0, 1.0, 0.66]
                    images.append({"id": len(images), "file_name": f"{number}_{frame}.jpg", "ds": ds})
        dump(root / split / "annotation_ds_coco.json", {"images": images, "annotations": []})
    return root


def grasp(root: Path) -> Path:
    """CASE001 at 45 frames a keyframe, CASE041 at 30; three pictures between keyframes; fold1 and fold2 make up train."""
    base = root / "GraSP_30fps"
    categories = {"phases_categories": [{"id": 0, "name": "Idle"}, {"id": 1, "name": "Dissection"}], "steps_categories": []}
    for case, step, parts in (("CASE001", 45, ("train", "fold1")), ("CASE041", 30, ("test",))):
        images, annotations = [], []
        for second in range(6):
            for third in range(3):
                picture(base / f"frames/{case}/{second * step + third * step // 3:09d}.jpg")
            images.append({"id": second, "video_name": case, "frame_num": second * step, "file_name": f"{case}/x.jpg"})
            annotations.append({"image_id": second, "phases": int(second >= 4), "steps": 0})
        for part in parts:
            content = {"images": images[::-1], "annotations": annotations, **categories}
            dump(base / f"annotations/grasp_long-term_{part}.json", content)
        picture(base / f"annotations/segmentations/{case}/{step:09d}.png")
    empty = {"images": [], "annotations": [], **categories}
    dump(base / "annotations/grasp_long-term_fold2.json", empty)
    return root


# ------------------------------------------------------------------ general sets


def ucf101(root: Path) -> Path:
    names = [
        ("ApplyEyeMakeup", "v_ApplyEyeMakeup_g08_c01"),
        ("ApplyEyeMakeup", "v_ApplyEyeMakeup_g08_c02"),
        ("YoYo", "v_YoYo_g01_c01"),
    ]
    for folder, name in names:
        video(root / f"UCF-101/{folder}/{name}.avi", 2)
    lists = root / "ucfTrainTestlist"
    text(lists / "classInd.txt", ["1 ApplyEyeMakeup", "101 YoYo"])
    text(
        lists / "trainlist01.txt",
        ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1", "ApplyEyeMakeup\\v_ApplyEyeMakeup_g08_c02.avi 1"],
    )
    text(lists / "testlist01.txt", ["YoYo/v_YoYo_g01_c01.avi"])
    text(lists / "trainlist02.txt", ["YoYo/v_YoYo_g01_c01.avi 101"])
    text(lists / "testlist02.txt", ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"])
    return root


HMDB_FILM = "April_09_brush_hair_u_nm_np1_ba_goo_"


def hmdb51(root: Path) -> Path:
    marks = {
        f"{HMDB_FILM}0.avi": 1,
        f"{HMDB_FILM}1.avi": 1,
        "Other_Film_brush_hair_f_cm_np2_ri_med_3.avi": 2,
        "Third_brush_hair_h_nm_np1_fr_bad_0.avi": 0,
    }
    for name in marks:
        video(root / f"brush_hair/{name}", 2)
    lines = [f"{name} {mark} " for name, mark in marks.items()]
    text(root / "testTrainMulti_7030_splits/brush_hair_test_split1.txt", lines)
    return root


def kinetics(root: Path) -> Path:
    """Clips cut to files already; one of two rows of val is gone from YouTube; one video gives two clips."""
    header = "label,youtube_id,time_start,time_end,split"
    video(root / "train/abseiling/0347ZoDXyP0_000095_000105.mp4", 2)
    video(root / "train/abseiling/0347ZoDXyP0_000200_000210.mp4", 2)
    video(root / "validate/-HwFxb2SLPo_000002_000012.mp4", 2)
    text(root / "train.csv", [header, "abseiling,0347ZoDXyP0,95,105,train", "abseiling,0347ZoDXyP0,200,210,train"])
    text(root / "validate.csv", [header, "air drumming,-HwFxb2SLPo,2,12,val", "air drumming,gone0000000,5,15,val"])
    return root


def ssv2(root: Path) -> Path:
    for number in (1, 2, 3):
        video(root / f"20bn-something-something-v2/{number}.webm", 2)
    dump(root / "labels.json", {"Holding something": "35", "Pushing something from left to right": "93"})
    dump(
        root / "something-something-v2-train.json",
        [{"id": "1", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]}],
    )
    dump(root / "something-something-v2-validation.json", [{"id": "2", "template": "Pushing [something] from left to right"}])
    dump(root / "something-something-v2-test.json", [{"id": "3"}])
    return root
