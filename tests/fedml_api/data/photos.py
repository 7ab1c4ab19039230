"""Folders of small images, tables and JSON in the official formats of the field's sets of photos."""

import json

import numpy as np
from PIL import Image

from tests.fedml_api.data import official

SYNSETS = {3: "n01440764", 1: "n01443537", 2: "n02119789"}  # the challenge numbers them in another order than that of their names


def pixels(seed, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def folders(root, parts=("train", "test"), classes=("cat", "dog"), each=(3, 2), size=(12, 16), first=0, suffix=".png"):
    """`part/class/number.png`; the pixels by these three."""
    made = {}
    for part, count in zip(parts, each, strict=True):
        for name in classes:
            for k in range(count):
                made[part, name, k] = pixels(first + len(made), *size)
                save(root / part / name / f"{k}{suffix}", made[part, name, k])
    return made


def imagenet(root, flat=False):
    """Three synsets, two photos of each for training; of the k-th k + 1 for validation."""
    base = root / "imagenet"
    for number, name in SYNSETS.items():
        for k in range(2):
            save(base / "train" / name / f"{name}_{k}.JPEG", pixels(10 * number + k), format="JPEG")
    truth = [2, 3, 1, 1, 2, 1]
    for k, number in enumerate(truth, 1):
        folder = base / "val" if flat else base / "val" / SYNSETS[number]
        save(folder / f"ILSVRC2012_val_{k:08}.JPEG", pixels(100 + k), format="JPEG")
    if flat:
        devkit(base, truth)
    return truth


def devkit(base, truth):
    from scipy.io import savemat

    folder = base / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in truth))
    table = np.zeros((len(SYNSETS) + 1, 1), [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")])
    for row, (number, name) in zip(table[:, 0], {**SYNSETS, 1001: "n00001740"}.items(), strict=True):
        row["ILSVRC2012_ID"], row["WNID"], row["words"], row["num_children"] = float(number), name, f"word {number}", 0.0
    savemat(folder / "meta.mat", {"synsets": table})


def landmarks(root, names=("mini_gld_train_split.csv", "mini_gld_test.csv"), classes=203):
    """Three photographers with 1, 2 and 3 photos, and two photos for testing; pixels, user and class by image."""
    folder, made = root / "landmarks", {}
    folder.mkdir(parents=True)
    lines = [["user_id,image_id,class"], ["image_id,class"]]
    for k, user in enumerate(["7", "12", "12", "100", "100", "100", None, None]):
        image, label = f"{(k * 2654435761) % 16**4:04x}{k:012x}", (k * 5) % classes if k % 2 else classes - 1 - k
        made[image] = pixels(k), user, label
        save(folder / "train" / image[0] / image[1] / image[2] / f"{image}.jpg", made[image][0], quality=95)
        lines[user is None].append(f"{user},{image},{label}" if user else f"{image},{label}")
    for name, content in zip(names, lines, strict=True):
        (folder / name).write_text("\n".join(content) + "\n")
    return made


def celeba(root):
    """Two celebrities with 3 and 2 photos, of which 2 and 1 for training."""
    users = [{"17": ([1, 2], [0, 1]), "4": ([3], [1])}, {"17": ([4], [1]), "4": ([5], [0])}]
    parts = [{user: {"x": [f"{k:06}.jpg" for k in x], "y": y} for user, (x, y) in part.items()} for part in users]
    official.leaf(root / "leaf_celeba", parts)
    made = {k: pixels(k, 22, 18) for k in range(1, 6)}
    for k, image in made.items():
        save(root / "leaf_celeba" / "img_align_celeba" / f"{k:06}.jpg", image, quality=95)
    return made


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
