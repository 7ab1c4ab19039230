"""Small files in the official formats of tables, streams, readings of devices, and ratings, drawn from a seed."""

import csv

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


def motes(root, hops=("single", "multi"), readings=40, seed=0):
    """Readings by network and mote, `[readings, 3]`; mote 2 of each network has an event at its readings 30 and 31."""
    draw, made = np.random.default_rng(seed), {}
    for name in hops:
        rows = []
        for mote in (1, 2):
            own = np.column_stack(
                [draw.normal(45, 1, readings).round(2), draw.normal(28, 1, readings).round(2), np.zeros(readings)]
            )
            own[29:31] = [80, 40, 1] if mote == 2 else own[29:31]
            made[f"{name}_{mote}"] = own
            rows += [[k + 1, mote, 1, *numbers[:2], int(numbers[2])] for k, numbers in enumerate(own)]
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
