"""Small files in the official formats of the field's data sets, drawn from a seed, and what is needed to damage them."""

import gzip
import json
from pathlib import Path

import numpy as np

WORDS = [f"w{k}" for k in range(30)]
TAGS = [f"t{k}" for k in range(6)]


def h5_file(path, clients):
    """`/examples/CLIENT/FEATURE`; text as h5py's users write it, with a variable length."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # whoever has the old file open keeps it
    with h5py.File(path, "w") as file:
        for client, features in clients.items():
            group = file.create_group(f"examples/{client}")
            for name, values in features.items():
                if isinstance(values, list):
                    group.create_dataset(name, data=values, dtype=h5py.string_dtype("utf-8"))
                else:
                    group.create_dataset(name, data=values)
    return path


def edit_h5(path, change):
    import h5py

    with h5py.File(path, "r+") as file:
        change(file)


def femnist(root, clients=4, seed=0, folder="femnist", stem="fed_emnist", classes=62):
    draw = np.random.default_rng(seed)
    made = []
    for part, size in (("train", 5), ("test", 2)):
        made.append(
            {
                f"f{k:04}_{k % 3}": {
                    "pixels": (draw.integers(0, 256, (size + k, 28, 28)) / np.float32(255)).astype(np.float32),
                    "label": draw.integers(0, classes, size + k).astype(np.int32),
                }
                for k in range(clients)
            }
        )
        h5_file(root / folder / f"{stem}_{part}.h5", made[-1])
    return made


def fed_cifar100(root, seed=0):
    draw = np.random.default_rng(seed)
    made = []
    for part, clients in (("train", "012"), ("test", "34")):
        made.append(
            {
                client: {
                    "image": draw.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8),
                    "label": draw.integers(0, 100, (4, 1)),
                    "coarse_label": draw.integers(0, 20, (4, 1)),
                }
                for client in clients
            }
        )
        h5_file(root / "fed_cifar100" / f"fed_cifar100_{part}.h5", made[-1])
    return made


def fed_shakespeare(root):
    made = [
        {"ROMEO": {"snippets": ["But soft", "x" * 200]}, "JULIET": {"snippets": ["Ay me!"]}},
        {"ROMEO": {"snippets": ["O, speak ~"]}, "JULIET": {"snippets": ["y" * 79, "z" * 80]}},
    ]
    for part, clients in zip(("train", "test"), made, strict=True):
        h5_file(root / "fed_shakespeare" / f"shakespeare_{part}.h5", clients)
    return made


def stackoverflow(root, clients=5, seed=0):
    draw = np.random.default_rng(seed)

    def sentence(most):
        return " ".join(draw.choice([*WORDS, "unheard"], draw.integers(1, most)))

    made = []
    for part, first in (("train", 0), ("test", 2)):
        made.append(
            {
                str(100 + k): {
                    "tokens": [sentence(30) for _ in range(k + 1)],
                    "title": [sentence(5) for _ in range(k + 1)],
                    "tags": ["|".join(draw.choice([*TAGS, "rare"], 2, replace=False)) for _ in range(k + 1)],
                    "creation_date": ["2009-01-01"] * (k + 1),
                    "score": draw.integers(0, 9, k + 1),
                }
                for k in range(first, first + clients)
            }
        )
        h5_file(root / "stackoverflow" / f"stackoverflow_{part}.h5", made[-1])
    folder = root / "stackoverflow"
    (folder / "stackoverflow.word_count").write_text("".join(f"{word} {900 - k}\n" for k, word in enumerate(WORDS)))
    (folder / "stackoverflow.tag_count").write_text(json.dumps({tag: 90 - k for k, tag in enumerate(TAGS)}))
    return made


def leaf(folder, parts, files=1):
    """`train` and `test` folders of JSON files: users, num_samples, user_data."""
    for part, users in zip(("train", "test"), parts, strict=True):
        (folder / part).mkdir(parents=True, exist_ok=True)
        names = list(users)
        for number in range(files):
            mine = names[number::files]
            content = {
                "users": mine,
                "num_samples": [len(users[user]["y"]) for user in mine],
                "user_data": {user: users[user] for user in mine},
            }
            (folder / part / f"all_data_{number}_niid_0_keep_10_{part}_9.json").write_text(json.dumps(content))


def idx(array):
    types = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}
    header = bytes([0, 0, types[array.dtype.name], array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def idx_files(folder, stems, classes, sizes=(12, 6), first=0, zipped=True, seed=0):
    """Image and label files for training and testing; returns their images and labels."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for (image_file, label_file), size in zip(stems, sizes, strict=True):
        images = draw.integers(0, 256, (size, 28, 28)).astype(np.uint8)
        labels = (first + np.arange(size) % classes).astype(np.uint8)
        for name, array in ((image_file, images), (label_file, labels)):
            path = Path(folder / (name + ".gz" * zipped))
            path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
        made.append((images, labels))
    return made
