"""Small files in the formats in which molecules and networks are passed around."""

import numpy as np


def sdf(path, molecules):
    """`molecules`: (elements, bonds as (atom, atom, order) from 1, fields, and perhaps charges by atom, from 1)."""
    records = []
    for elements, bonds, fields, *charged in molecules:
        lines = [fields.get("NAME", ""), "     RDKit          2D", "", f"{len(elements):3}{len(bonds):3}" + "  0" * 7 + "999 V2000"]
        lines += [f"{0.5 * k:10.4f}{0.25:10.4f}{0:10.4f} {element:<3} 0" + "  0" * 11 for k, element in enumerate(elements)]
        lines += [f"{one:3}{other:3}{order:3}  0" for one, other, order in bonds]
        for charges in charged:
            lines.append(f"M  CHG{len(charges):3}" + "".join(f"{atom:4}{charge:4}" for atom, charge in charges.items()))
        lines.append("M  END")
        for k, (name, value) in enumerate(fields.items()):
            lines += [f">  <{name}>  ({k}) ", str(value), ""]
        records.append("\n".join([*lines, "$$$$"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(records) + "\n")
    return path


def words(root, name, papers=12, width=5, classes=("b_nets", "a_rules", "c_theory"), seed=0):
    """LINQS's NAME.content and NAME.cites. Returns features, classes by name and links, as they were drawn."""
    draw = np.random.default_rng(seed)
    features, labels = draw.integers(0, 2, (papers, width)), [classes[k % len(classes)] for k in range(papers)]
    links = [(k, (k + step) % papers) for k in range(papers) for step in (1, 3)]
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["\t".join([f"p{k}", *map(str, features[k]), labels[k]]) for k in range(papers)]
    (folder / f"{name}.content").write_text("\n".join(rows) + "\n")
    (folder / f"{name}.cites").write_text("".join(f"p{one}\tp{other}\n" for one, other in links))
    return features, labels, links


def pubmed(root, papers=9, width=4, seed=0):
    """LINQS's two files of PubMed Diabetes."""
    draw = np.random.default_rng(seed)
    features, links = draw.integers(1, 9, (papers, width)) / 16 * (np.arange(papers * width).reshape(papers, width) % 3 > 0), []
    lines = ["NODE\tpaper", "\t".join(["cat=1,2,3:label", *(f"numeric:w-{k}:0.0" for k in range(width)), "string:summary"])]
    for k in range(papers):
        found = [f"w-{word}={features[k, word]}" for word in range(width) if features[k, word]]
        lines.append("\t".join([str(100 + k), f"label={k % 3 + 1}", *found, "summary=" + ",".join(found)]))
        links.append((k, (k + 2) % papers))
    cites = ["DIRECTED\tcites", "NO_FEATURES"] + [f"{n}\tpaper:{100 + a}\t|\tpaper:{100 + b}" for n, (a, b) in enumerate(links)]
    folder = root / "pubmed"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Pubmed-Diabetes.NODE.paper.tab").write_text("\n".join(lines) + "\n")
    (folder / "Pubmed-Diabetes.DIRECTED.cites.tab").write_text("\n".join(cites) + "\n")
    return features, links
