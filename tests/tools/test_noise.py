"""`python -m tools.noise`: on made-up votes, copies and wrong labels whose truth is known, and in a shrunk clone."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from stages.evaluate import Evaluate
from tests.support.clones import run
from tests.support.made_up import LABELS, made_up_tweets
from tools.noise import __main__ as noise
from tools.noise import ceiling, label_issues, summary
from tweets import files, params
from tweets.data import duplicates
from tweets.errors import UserError

pytestmark = pytest.mark.xdist_group("noise")  # they share a report

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ALPHA = np.array([0.5, 0.4, 0.2])
OUTPUTS = ("noise/noise.json", "noise/label_issues.csv")


def vote(chances: Floats, votes: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Return the label, (N,), that a panel gives each tweet of the chances (N, K), and the winner's share, (N,)."""
    counts = rng.multinomial(votes, chances)
    return (counts + rng.random(counts.shape) / 2).argmax(1), counts.max(1) / votes


def frame(labels: Ints, confidence: Floats) -> pd.DataFrame:
    return noise.with_bands(pd.DataFrame({"label_class": labels, "confidence": confidence}))


# The ceiling from votes


@pytest.mark.parametrize(("alpha", "votes"), [(ALPHA, 3), (ALPHA, 5), (np.array([1.0, 2.0]), 4)])
def test_the_vote_model_finds_the_ceiling_and_the_repeatability_that_were_planted(alpha: Floats, votes: int) -> None:
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(alpha, 40_000)
    (labels, confidence), (again, _) = vote(chances, votes, rng), vote(chances, votes, rng)
    best = chances.argmax(1)
    fitted = ceiling.fit(labels, confidence, len(alpha), votes)
    found = ceiling.scores(ceiling.confusion(fitted, labels, confidence).sum(0))
    truth = np.zeros((len(alpha), len(alpha)))
    np.add.at(truth, (labels, best), 1)
    assert fitted.alpha == pytest.approx(alpha, rel=0.1)
    assert found == pytest.approx(ceiling.scores(truth), abs=0.01)
    assert fitted.repeatability() == pytest.approx((labels == again).mean(), abs=0.01)
    assert ceiling.misfit(fitted, labels, confidence) < 0.01


def test_the_range_covers_the_ceiling_of_mixed_panels() -> None:
    rng = np.random.default_rng(1)
    chances = rng.dirichlet(ALPHA, 20_000)
    panels = [vote(chances, votes, rng) for votes in noise.VOTES]
    small = rng.random(len(chances)) < 0.7
    labels, confidence = (np.where(small, *parts) for parts in zip(*panels, strict=True))
    rows = frame(labels, confidence)
    found, confusions = noise.ceilings(rows, rows, 3)
    low, high = sorted(model["accuracy"] for model in found)
    assert low - 0.005 < (labels == chances.argmax(1)).mean() < high + 0.005
    assert [model["votes"] for model in found] == list(noise.VOTES)
    assert found[1]["misfit"] > 0.05  # most of them were of 3
    assert confusions[0].shape == (20_000, 3, 3)


def test_the_chances_of_all_ballots_add_up() -> None:
    counts = ceiling.ballots(3, 5)
    assert len(counts) == 21
    assert set(counts.sum(1)) == {5}
    assert ceiling.chances(counts, ALPHA).sum() == pytest.approx(1)
    assert ceiling.chances(np.array([[1, 0], [0, 1]]), np.array([1.0, 3.0])) == pytest.approx([0.25, 0.75])


def test_those_ahead_share_a_tie() -> None:
    assert ceiling.winners(np.array([[2, 1, 0], [1, 1, 1], [2, 2, 1]])).tolist() == [
        [1, 0, 0],
        [pytest.approx(1 / 3)] * 3,
        [0.5, 0.5, 0],
    ]


def test_the_largest_component_of_a_dirichlet() -> None:
    from scipy.stats import beta

    assert ceiling.largest(np.array([3.2, 1.1])) == pytest.approx(
        [beta.sf(0.5, 3.2, 1.1), beta.cdf(0.5, 3.2, 1.1)], abs=1e-3
    )
    alpha = np.array([2.4, 1.3, 0.2])
    drawn = np.random.default_rng(0).dirichlet(alpha, 200_000).argmax(1)
    assert ceiling.largest(alpha) == pytest.approx(np.bincount(drawn) / 200_000, abs=0.004)


def test_a_share_of_votes_is_read_as_the_nearest_number_that_can_win() -> None:
    model = ceiling.VoteModel(votes=3, alpha=ALPHA)
    assert model.top(np.array([1.0, 0.68, 0.61, 0.34, 0.05])).tolist() == [3, 2, 2, 1, 1]
    assert ceiling.VoteModel(votes=5, alpha=ALPHA).top(np.array([0.2, 0.79])).tolist() == [2, 4]


def test_more_labels_than_the_vote_model_takes_leave_it_out() -> None:
    rows = frame(np.arange(11), np.ones(11))
    assert noise.ceilings(rows, rows, 11) == ([], [])


# The ceiling from copies


@pytest.mark.parametrize(("classes", "rate"), [(2, 0.1), (3, 0.2), (5, 0.3)])
def test_symmetric_noise_reaches_the_upper_bound(classes: int, rate: float) -> None:
    agreement = (1 - rate) ** 2 + rate**2 / (classes - 1)
    assert ceiling.bounds(agreement, classes) == pytest.approx((agreement, 1 - rate))


def test_tweets_that_are_plain_or_a_toss_up_reach_the_lower_bound() -> None:
    agreement = 0.6 * 1 + 0.4 * 0.5  # 40 % are a toss-up of two labels, whose best answer is right on half of them
    low, high = ceiling.bounds(agreement, 3)
    assert low == pytest.approx(0.8)
    assert low < high < 1
    assert ceiling.bounds(0.2, 3)[1] == pytest.approx(1 / 3)  # less than chance


def test_copies_count_once_for_each_text_and_as_much_as_their_band() -> None:
    rows = pd.DataFrame(
        {
            "key": ["a", "a", "b", "b", "b"],
            "label_class": [0, 0, 0, 1, 1],
            "band": [0, 0, 1, 1, 1],
        }
    )
    others, _ = ceiling.second_labels(rows, 2)
    assert others.tolist() == [[1, 0], [1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]]
    found, resampled = ceiling.repeated(rows, np.array([0.25, 0.75, 0]), 2, resamples=20, seed=0)
    assert found[0].tolist() == [[0.25, 0], [0, 0]]
    assert found[1] == pytest.approx(np.array([[0, 0.25], [0.25, 0.25]]))
    assert not found[2].any()
    assert resampled.shape == (20, 3, 2, 2)
    assert len(np.unique(resampled[:, 0].sum((1, 2)).round(9))) == 2  # in some resamples text a is not


def test_the_agreement_of_planted_copies_lies_in_its_interval_and_bounds_the_ceiling(workspace: Path) -> None:
    rng = np.random.default_rng(2)
    chances = rng.dirichlet(ALPHA, 3000)
    parts = [frame(*vote(chances, 3, rng)).assign(key=np.arange(3000).astype(str)) for _ in range(2)]
    settings = params.load("evaluate", Evaluate)
    found, by_band = noise.second_annotation(pd.concat(parts, ignore_index=True), parts[0], 3, settings)
    assert found is not None
    low, high = found["intervals"]["accuracy"]
    truth = ceiling.VoteModel(votes=3, alpha=ALPHA).repeatability()
    assert low < truth < high
    assert high - low < 0.04
    low, high = found["ceiling"]
    assert low < (parts[0]["label_class"] == chances.argmax(1)).mean() < high
    assert (found["texts"], found["pairs"]) == (3000, 3000)
    both = (parts[0]["confidence"] < 1) & (parts[1]["confidence"] < 1)
    assert found["pairs_below_1"] == both.sum()
    assert found["of_them_with_one_confidence"] == (both & (parts[0]["confidence"] == parts[1]["confidence"])).sum()
    assert np.isnan(by_band[[2, 4]]).all()  # three votes have no share from 0.7 to 0.9, and none is unknown
    assert by_band[0] < by_band[1] < by_band[3]


# Confident learning


def planted(rate: float) -> tuple[pd.DataFrame, Floats, npt.NDArray[np.bool_]]:
    """Return rows of which a share was given the next label, a fair model's probabilities, and which rows they are."""
    rng = np.random.default_rng(3)
    truth = rng.integers(3, size=6000)
    probabilities = np.exp(4 * np.eye(3)[truth] + rng.normal(size=(6000, 3)))
    wrong = rng.random(6000) < rate
    rows = pd.DataFrame(
        {
            "id": np.arange(6000).astype(str),
            "key": np.arange(6000).astype(str),
            "raw": "text",
            "split": "train",
            "label_class": np.where(wrong, (truth + 1) % 3, truth),
            "confidence": np.where(wrong, 0.6, rng.choice([0.6, 1.0], 6000)),
        }
    )
    rows["label"] = rows["label_class"].map(LABELS.__getitem__)
    return noise.with_bands(rows), probabilities / probabilities.sum(1, keepdims=True), wrong


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_share_of_wrong_labels_that_was_planted_is_found(rate: float) -> None:
    rows, probabilities, wrong = planted(rate)
    judged = label_issues.judge("made up", rows, probabilities)
    found = label_issues.judgement(judged, LABELS, noise.BANDS)
    assert found["estimated_wrong"] == pytest.approx(wrong.mean(), abs=0.02)
    for label in found["labels"]:
        of_label = (rows["label"] == label["label"]).to_numpy()
        assert label["estimated_wrong"] == pytest.approx(wrong[of_label].mean(), abs=0.03)
        assert (label["rows"], label["flagged"]) == (of_label.sum(), judged.flagged[of_label].sum())
    assert wrong[judged.flagged].mean() > 0.85
    assert judged.flagged[wrong].mean() > 0.85
    assert found["rows"] == sum(band["rows"] for band in found["bands"]) == 6000
    assert found["flagged"] == sum(band["flagged"] for band in found["bands"]) == judged.flagged.sum()
    assert [band["confidence"] for band in found["bands"]] == ["0.5 to 0.7", "0.9 to 1"]
    assert found["accuracy"] == pytest.approx((probabilities.argmax(1) == rows["label_class"]).mean())
    assert found["flagged_have_lower_confidence"] == pytest.approx(
        label_issues.lower_confidence(judged.flagged, rows["confidence"])
    )


def test_lower_confidence_is_the_chance_that_a_marked_row_has_the_lower_one() -> None:
    confidence = pd.Series([0.5, 0.9, 0.7, 1.0, None])
    assert label_issues.lower_confidence(np.array([True, False, True, False, False]), confidence) == 1
    assert label_issues.lower_confidence(np.array([True, False, False, True, False]), confidence) == 0.5
    assert label_issues.lower_confidence(np.array([False, False, False, False, True]), confidence) is None


def test_second_opinions_are_those_of_the_other_copies() -> None:
    rows = pd.DataFrame({"key": ["a", "b", "c", "d"], "label_class": [0, 1, 2, 0]})
    copies = pd.DataFrame({"key": ["a", "a", "a", "b", "b", "c", "c"], "label_class": [0, 0, 1, 1, 2, 2, 2]})
    judged = label_issues.Judged(
        by="made up",
        rows=rows,
        probabilities=np.eye(3)[[1, 2, 2, 1]],
        flagged=np.array([True, True, False, True]),
        joint=np.eye(3) / 3,
    )
    assert label_issues.second_opinions(judged, copies) == {
        "flagged": 2,
        "flagged_repeated": 0.25,
        "flagged_as_suggested": 0.75,
        "others": 1,
        "others_repeated": 1.0,
    }
    assert label_issues.second_opinions(judged, copies[copies["key"] == "c"]) is None


def test_copies_of_a_tweet_do_not_tell_its_label_to_the_cross_validation(workspace: Path) -> None:
    rows = made_up_tweets(240)
    copies = pd.DataFrame({"text": ["terrible awful hate worst broken angry " + "!" * n for n in range(20)]})
    rows = pd.concat([rows, copies.assign(label="positive")], ignore_index=True)
    rows["label_class"] = rows["label"].map(LABELS.index)
    rows["key"] = rows["text"].map(duplicates.key)
    found = label_issues.cross_validated(rows, LABELS)
    assert found is not None
    assert found.sum(1) == pytest.approx(np.ones(260))
    right = found.argmax(1) == rows["label_class"]
    assert right[:240].mean() > 0.9
    assert not right[240:].any()


# The command


@pytest.fixture(scope="module")
def spoilt(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which every tenth training label is the next one, and each tweet has a copy, a quarter otherwise."""
    folder = shutil.copytree(reproduced, tmp_path_factory.mktemp("spoilt") / "clone", symlinks=True)
    following = dict(zip(LABELS, LABELS[1:] + LABELS[:1], strict=True))
    train = pd.read_parquet(folder / "data/prepared/train.parquet")
    train.loc[::10, "label"] = train.loc[::10, "label"].map(following)
    replace(folder, "data/prepared/train.parquet", train)
    raw = pd.read_parquet(folder / "data/raw/rows.parquet")
    copies = raw.assign(id="copy " + raw["id"])
    copies.loc[::4, "label"] = copies.loc[::4, "label"].map(following)
    spoilt_ids = raw["id"].isin(train["id"][::10])
    raw.loc[spoilt_ids, "label"] = raw.loc[spoilt_ids, "label"].map(following)
    replace(folder, "data/raw/rows.parquet", pd.concat([raw, copies], ignore_index=True))
    return folder


def replace(folder: Path, name: str, rows: pd.DataFrame) -> None:
    (folder / name).unlink()  # a link into DVC's cache, which must not change
    rows.to_parquet(folder / name, index=False)


@pytest.fixture(scope="module")
def reported(spoilt: Path) -> tuple[Path, str]:
    """That clone after the command, and what it printed."""
    return spoilt, run(spoilt, "python", "-m", "tools.noise").stdout


@pytest.fixture
def here(spoilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that clone as the current folder, to change."""
    folder = shutil.copytree(spoilt, tmp_path / "clone", symlinks=True)
    shutil.rmtree(folder / "noise", ignore_errors=True)
    monkeypatch.chdir(folder)
    return folder


def read(folder: Path) -> Any:
    return json.loads((folder / "noise/noise.json").read_text())


def test_the_planted_training_labels_head_the_list(reported: tuple[Path, str]) -> None:
    folder, _ = reported
    found = pd.read_csv(folder / "noise/label_issues.csv")
    assert list(found.columns) == [
        "id",
        "split",
        "label",
        "suggested",
        "p_label",
        "p_suggested",
        "annotator_confidence",
        "text",
    ]
    margin = found["p_suggested"] - found["p_label"]
    assert margin.round(4).is_monotonic_decreasing
    assert (found["label"] != found["suggested"]).all()
    train = pd.read_parquet(folder / "data/prepared/train.parquet").set_index("id")
    listed = found[found["split"] == "train"].set_index("id")
    spoilt = train.index[::10]
    assert len(set(listed.index) & set(spoilt)) > 0.8 * len(spoilt)
    assert set(listed.index[: len(spoilt) // 2]) <= set(spoilt)
    same = train.loc[listed.index]
    assert listed["text"].tolist() == same["raw"].tolist()
    assert listed["label"].tolist() == same["label"].tolist()
    assert listed["annotator_confidence"].tolist() == same["confidence"].tolist()


def test_the_report_is_of_the_same_scores_as_the_metrics(reported: tuple[Path, str]) -> None:
    folder, _ = reported
    report, metrics = read(folder), json.loads((folder / "metrics/evaluate.json").read_text())
    assert report["rows"] == report["of_rows"] == metrics["rows"]
    for scored in metrics["models"]:
        for name, value in report["scores"][scored["model"]].items():
            assert value == pytest.approx(scored[name], abs=1e-5)
    slices = {found["slice"]: found for found in json.loads((folder / "metrics/slices.json").read_text())["slices"]}
    for band in report["bands"]:
        assert band["transformer"] == pytest.approx(slices[f"confidence: {band['confidence']}"]["accuracy"], abs=1e-5)
        assert band["rows"] == slices[f"confidence: {band['confidence']}"]["rows"]


def test_the_planted_copies_and_training_labels_are_counted(reported: tuple[Path, str]) -> None:
    folder, _ = reported
    report = read(folder)
    second, opinions = report["second_annotation"], report["second_opinions"]
    assert (second["texts"], second["pairs"]) == (240, 240)
    raw = pd.read_parquet(folder / "data/raw/rows.parquet")["label"].to_numpy().reshape(2, 240)
    agreement = (raw[0] == raw[1]).mean()
    assert second["accuracy"] == pytest.approx(agreement, abs=0.02)  # but for the weights of the bands
    assert second["intervals"]["accuracy"][0] < agreement < second["intervals"]["accuracy"][1]
    [_, train] = report["judged"]
    assert train["estimated_wrong"] == pytest.approx(0.1, abs=0.03)
    assert opinions["flagged_repeated"] < 0.4
    assert opinions["flagged_as_suggested"] > 0.6
    assert opinions["others_repeated"] > 0.7
    assert report["left_out"] == []


def test_what_is_printed_is_the_report_and_neither_goes_into_git(reported: tuple[Path, str]) -> None:
    folder, printed = reported
    assert printed == summary.markdown(read(folder)) + "\n\nnoise: noise/noise.json and noise/label_issues.csv\n"
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert {row[0].removeprefix("| ") for row in rows} >= {
        "TF-IDF baseline",
        "transformer",
        "a second annotation of the same words (240 texts)",
        "ceiling, if 3 votes made each label",
        "ceiling, by the second annotations",
        "0.9 to 1",
        "baseline, cross-validated on train",
    }
    assert "noise/" not in run(folder, "git", "status", "--porcelain").stdout
    assert not any(word in printed for word in ("airport", "terrible", "@someone"))


def test_a_second_run_writes_the_same_bytes(reported: tuple[Path, str], here: Path) -> None:
    noise.main()
    for name in OUTPUTS:
        assert (here / name).read_bytes() == (reported[0] / name).read_bytes()


def test_without_confidence_the_parts_that_need_it_are_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("raw/rows", "prepared/train", "prepared/valid", "prepared/test"):
        replace(here, f"data/{name}.parquet", pd.read_parquet(f"data/{name}.parquet").assign(confidence=np.nan))
    noise.main()
    out, report = capsys.readouterr().out, read(here)
    assert report["ceilings"] == report["bands"] == []
    assert report["rows"] == report["of_rows"]
    assert report["second_annotation"]["texts"] == 240
    assert [part["flagged_have_lower_confidence"] for part in report["judged"]] == [None, None]
    assert "Left out: the ceiling from votes, since no test row has an annotator confidence." in out
    assert "| confidence |" not in out


def test_without_copies_and_with_a_rare_label_the_rest_is_reported(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, train = (pd.read_parquet(f"data/{name}.parquet") for name in ("raw/rows", "prepared/train"))
    replace(here, "data/raw/rows.parquet", raw[~raw["id"].str.startswith("copy")])
    rare = train["label"] == "positive"
    replace(here, "data/prepared/train.parquet", pd.concat([train[~rare], train[rare].head(4)]))
    noise.main()
    out, report = capsys.readouterr().out, read(here)
    assert report["second_annotation"] is report["second_opinions"] is None
    assert len(report["judged"]) == 1
    assert "Left out: the second annotation, since no tweet with such a confidence has a copy in data/raw." in out
    assert "Left out: the training rows, since a label has fewer than 5 groups of near-duplicates." in out
    assert "a second annotation" not in out


def test_a_lone_carriage_return_in_a_tweet_ends_no_row(here: Path) -> None:
    train = pd.read_parquet("data/prepared/train.parquet").assign(raw="first\rsecond")
    replace(here, "data/prepared/train.parquet", train)
    noise.main()
    found = pd.read_csv("noise/label_issues.csv")
    assert set(found.loc[found["split"] == "train", "text"]) == {"first\rsecond"}


def test_what_is_missing_is_named_before_anything_is_computed(here: Path) -> None:
    def refused() -> str:
        with pytest.raises(UserError) as raised:
            noise.main()
        return str(raised.value)

    shutil.move("models/transformer", "elsewhere")
    assert refused().startswith("models/transformer: not a model folder: no config.json")
    shutil.move("elsewhere", "models/transformer")
    config = json.loads(Path("models/transformer/config.json").read_text())
    Path("models/transformer/config.json").unlink()
    config["id2label"]["0"] = "awful"
    files.write_json(Path("models/transformer/config.json"), config)
    assert refused() == (
        "models/transformer: has the labels awful, neutral, positive, data/prepared negative, neutral, positive;"
        " `dvc repro`"
    )
    shutil.rmtree("models/baseline")
    assert refused() == "models/baseline/model.json: no such file; `dvc repro` writes it"
    raw = pd.read_parquet("data/raw/rows.parquet")
    replace(here, "data/raw/rows.parquet", raw.assign(label="other"))
    assert refused() == "data/raw: has the label 'other', which data/prepared has not; `dvc repro`"
    Path("data/raw/rows.parquet").unlink()
    assert refused() == "data/raw/rows.parquet: no such file; `dvc repro` writes it"
    Path("data/prepared/valid.parquet").unlink()
    assert refused() == "data/prepared/valid.parquet: no such file; `dvc repro` writes it"
    assert not Path("noise").exists()


def test_the_command_ends_with_one_line(here: Path) -> None:
    shutil.rmtree("data/prepared")
    result = run(here, "python", "-m", "tools.noise", check=False)
    assert result.returncode == 1
    assert result.stderr == "noise: data/prepared/prepared.json: no such file; `dvc repro` writes it\n"
    assert not Path("noise").exists()
