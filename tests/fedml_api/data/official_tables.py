"""Small files in the official formats of tables, streams, readings of devices, and ratings, drawn from a seed."""

import csv
import gzip

import numpy as np

from fedml_api.data.n_baiot import DEVICES

MOTES = "motes/package/suthaharan-{}-hop-sensor-network/data/data.csv"


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([header] if header else [])
        writer.writerows(rows)
    return path


def motes(root, hops=("single", "multi"), readings=40, seed=0, numbers=(1, 2)):
    """Readings by network and mote, `[readings, 3]`; mote 2 of each network has an event at its readings 30 and 31."""
    draw, made = np.random.default_rng(seed), {}
    for name in hops:
        rows = []
        for mote in numbers:
            own = np.column_stack(
                [draw.normal(45, 1, readings).round(2), draw.normal(28, 1, readings).round(2), np.zeros(readings)]
            )
            own[29:31] = [80, 40, 1] if mote == 2 else own[29:31]
            made[f"{name}_{mote}"] = own
            rows += [[k + 1, mote, 1, *values[:2], int(values[2])] for k, values in enumerate(own)]
        write_csv(root / MOTES.format(name), ["reading", "mote_id", "indoor", "humidity", "temperature", "label"], rows)
    return made


def n_baiot(root, benign=9, attack=4, seed=0):
    """Traffic by device: ordinary rows and all attacks in the order of their files; two devices know one botnet only."""
    draw, made = np.random.default_rng(seed), {}
    header = [f"MI_dir_L{k}" for k in range(115)]
    for k, device in enumerate(DEVICES):
        folder = root / "n_baiot" / device
        kinds = ["gafgyt_attacks/combo", "gafgyt_attacks/udp"] + (["mirai_attacks/ack"] if k not in (2, 6) else [])
        parts = {"benign_traffic": draw.normal(k, 2, (benign + k, 115))} | {
            kind: draw.normal(50, 9, (attack, 115)) for kind in kinds
        }
        for name, rows in parts.items():
            write_csv(folder / f"{name}.csv", header, rows.tolist())
        made[device] = parts["benign_traffic"], np.concatenate([parts[kind] for kind in kinds])
    return made


def movielens(root, version="100k", seed=0):
    """Ratings (user, item, rating, time), in no order; times are those of the first column's users, some of them equal."""
    draw = np.random.default_rng(seed)
    rows = [
        [user, item, int(draw.integers(1, 6)), 1000 + int(draw.integers(0, 9))]
        for user, count in ((1, 10), (2, 5), (10, 3), (7, 1))
        for item in draw.permutation(np.arange(3, 40, 3))[:count].tolist()
    ]
    draw.shuffle(rows)
    folder = root / "movielens" / f"ml-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    if version == "20m":
        write_csv(folder / "ratings.csv", ["userId", "movieId", "rating", "timestamp"], [[u, i, r - 0.5, t] for u, i, r, t in rows])
    else:
        name, separator = {"100k": ("u.data", "\t"), "1m": ("ratings.dat", "::")}[version]
        (folder / name).write_text("".join(separator.join(map(str, row)) + "\n" for row in rows))
    return rows


def susy(root, rows=60, seed=0, zipped=False):
    """Label first, then 18 features; the label is by the sign of their sum."""
    x = np.random.default_rng(seed).normal(3, 2, (rows, 18))
    y = (x.sum(1) > 54).astype(int)
    text = "".join(",".join(f"{number:.18e}" for number in (label, *row)) + "\n" for label, row in zip(y, x, strict=True))
    path = root / "susy" / ("SUSY.csv" + ".gz" * zipped)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    return x, y


def room_occupancy(root, sizes=(21, 4, 5), seed=0):
    draw, made = np.random.default_rng(seed), []
    for name, size in zip(("datatraining", "datatest", "datatest2"), sizes, strict=True):
        x, y = draw.uniform(0, 100, (size, 5)).round(3), draw.integers(0, 2, size)
        lines = ['"date","Temperature","Humidity","Light","CO2","HumidityRatio","Occupancy"'] + [
            f'"{k + 1}","2015-02-04 17:{k:02}:00",{",".join(map(str, row))},{label}'
            for k, (row, label) in enumerate(zip(x, y, strict=True))
        ]
        (root / "room_occupancy").mkdir(parents=True, exist_ok=True)
        (root / "room_occupancy" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        made.append((x, y))
    return made
