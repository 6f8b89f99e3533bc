"""The stage evaluate: its scores are those of the folder as transformers loads it, and its parts add up."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, precision_recall_curve, recall_score

from stages import baseline, evaluate, featurize, fetch, prepare, train
from tests.support.clones import ROOT
from tests.support.made_up import LABELS, made_up_tweets, set_param, shrunk_params
from tweets.errors import UserError
from tweets.evaluation.metrics import OF_LABELS
from tweets.model import tfidf, transformer
from tweets.model.device import threads
from tweets.text import token_arrays

pytestmark = pytest.mark.xdist_group("evaluate")  # they share an evaluation

Piped = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
OUTPUTS = ("data/mistakes.csv", "data/test_probabilities.npy", "metrics", "plots/evaluate")


def trained_workspace(folder: Path, encoder: Path, rows: pd.DataFrame, **settings: Any) -> Path:
    """Make `folder` a workspace in which all is done that comes before evaluate."""
    rows.to_csv(folder / "tweets.csv", index=False)
    params = shrunk_params(encoder, Path("tweets.csv"))
    params["train"] |= settings
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(ROOT / "requirements.txt", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (fetch, prepare, featurize, baseline, train):
            stage.main()
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A workspace in which evaluate has run, with a model that is right about most tweets and not about all."""
    rows = made_up_tweets(360)
    rows.loc[::7, "label"] = [LABELS[(number + 1) % 3] for number in range(52)]  # labels that the words do not tell
    rows.loc[::5, "confidence"] = None
    rows.loc[::4, "text"] += " and not good"
    folder = trained_workspace(
        tmp_path_factory.mktemp("evaluated"), tiny_encoder, rows, lr=0.001, epochs=8, patience=99, evaluations=8
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evaluate.main()
    return folder


@pytest.fixture
def here(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That workspace as the current folder, to read only."""
    monkeypatch.chdir(evaluated)
    return evaluated


@pytest.fixture
def copy(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that workspace as the current folder, to change."""
    folder = tmp_path / "copy"
    shutil.copytree(evaluated, folder)
    monkeypatch.chdir(folder)
    return folder


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def of_model(name: str) -> dict[str, Any]:
    """Return the scores of one of the two models, as metrics/evaluate.json has them."""
    [found] = [scores for scores in read("metrics/evaluate.json")["models"] if scores["model"] == name]
    return dict(found)


def slices_by_name() -> dict[str, dict[str, Any]]:
    return {found["slice"]: found for found in read("metrics/slices.json")["slices"]}


def behaviour_kinds() -> dict[str, set[str]]:
    kinds: dict[str, set[str]] = {}
    for test in read("metrics/behaviour.json")["tests"]:
        kinds.setdefault(test["kind"], set()).add(test["test"])
    return kinds


def rows_of_test() -> pd.DataFrame:
    return pd.read_parquet("data/prepared/test.parquet")


def by_pipeline(texts: list[str], labels: list[str] = LABELS) -> npt.NDArray[np.float64]:
    """Return the probabilities, (N, K), that transformers.pipeline gives with the model folder."""
    pipe = transformers.pipeline("text-classification", model="models/transformer", device="cpu")
    with threads(1):
        found = [{s["label"]: s["score"] for s in scores} for scores in pipe(texts, top_k=None, truncation=True)]
    return np.array([[scores[label] for label in labels] for scores in found])


@pytest.fixture(scope="module")
def piped(evaluated: Path) -> Piped:
    """The class numbers of the test split, and its probabilities by the pipeline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(evaluated)
        rows = rows_of_test()
        return rows["label"].map(LABELS.index).to_numpy(), by_pipeline(rows["text"].tolist())


def headline(truth: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> dict[str, float]:
    predicted = probabilities.argmax(1)
    probabilities = probabilities / probabilities.sum(1, keepdims=True)
    return {
        "accuracy": accuracy_score(truth, predicted),
        "macro_f1": f1_score(truth, predicted, average="macro"),
        "macro_recall": recall_score(truth, predicted, average="macro"),
        "log_loss": log_loss(truth, probabilities),
    }


# The scores


def test_the_scores_are_those_of_transformers_pipeline_with_the_model_folder(here: Path, piped: Piped) -> None:
    truth, probabilities = piped
    found = read("metrics/evaluate.json")
    expected = headline(truth, probabilities)
    for scores in (found, of_model("transformer")):
        assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert 0.5 < found["accuracy"] < 1


def test_the_scores_of_each_label_are_those_of_scikit_learn(here: Path, piped: Piped) -> None:
    truth, probabilities = piped
    found = {scores["label"]: scores for scores in of_model("transformer")["labels"]}
    assert list(found) == LABELS
    predicted = probabilities.argmax(1)
    f1 = f1_score(truth, predicted, average=None)
    for k, label in enumerate(LABELS):
        assert found[label]["rows"] == (truth == k).sum()
        assert found[label]["f1"] == pytest.approx(f1[k], abs=1e-4)
        assert found[label]["recall"] == pytest.approx((predicted[truth == k] == k).mean(), abs=1e-4)
        assert found[label]["precision"] == pytest.approx((truth[predicted == k] == k).mean(), abs=1e-4)


def test_the_baseline_is_scored_on_the_same_rows(here: Path) -> None:
    rows = rows_of_test()
    truth = rows["label"].map(LABELS.index).to_numpy()
    expected = headline(truth, tfidf.load(Path("models/baseline")).predict(rows["text"].tolist()))
    found = of_model("baseline")
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    report = read("metrics/evaluate.json")
    assert report["baseline_macro_f1"] == found["macro_f1"]
    for part in report["transformer_minus_baseline"]:
        score, (low, high) = part["score"], part["interval"]
        assert part["difference"] == pytest.approx(of_model("transformer")[score] - found[score], abs=2e-5)
        assert low <= part["difference"] <= high


def test_the_paired_test_counts_the_rows_that_one_model_alone_has_right(here: Path, piped: Piped) -> None:
    truth, probabilities = piped
    right = probabilities.argmax(1) == truth
    texts = rows_of_test()["text"].tolist()
    baseline_right = tfidf.load(Path("models/baseline")).predict(texts).argmax(1) == truth
    [found] = read("metrics/evaluate.json")["paired_tests"]
    assert found["only_model_right"] == (right & ~baseline_right).sum()
    assert found["only_baseline_right"] == (baseline_right & ~right).sum()
    assert 0 < found["p_value"] <= 1


def test_the_rows_that_were_scored_are_published_by_number_and_hash(here: Path) -> None:
    report = read("metrics/evaluate.json")
    assert report["rows"] == len(rows_of_test())
    assert report["test_ids"] == read("metrics/prepare.json")["test_ids"]


def test_each_score_lies_in_its_interval(here: Path) -> None:
    for name in ("transformer", "baseline"):
        found = of_model(name)
        assert set(found["intervals"]) == {metric.name for metric in OF_LABELS}
        for score, (low, high) in found["intervals"].items():
            assert low <= found[score] <= high
            assert low < high


def test_the_stage_reports_both_models_with_their_interval(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main()
    lines = capsys.readouterr().out.splitlines()
    for name, line in zip(("transformer", "baseline"), lines[-2:], strict=True):
        found = of_model(name)
        low, high = found["intervals"]["macro_f1"]
        assert line == (
            f"evaluate: {name}: accuracy {found['accuracy']:.4f}, macro-F1 {found['macro_f1']:.4f}"
            f" [{low:.4f}, {high:.4f}]"
        )


def test_the_same_seed_gives_the_same_bytes_and_another_only_other_intervals(copy: Path) -> None:
    def written() -> dict[str, bytes]:
        paths = [path for root in OUTPUTS for path in [Path(root), *Path(root).rglob("*")] if path.is_file()]
        return {path.as_posix(): path.read_bytes() for path in paths}

    before, report = written(), read("metrics/evaluate.json")
    evaluate.main()
    assert written() == before
    set_param(copy, "evaluate.seed", 1)
    evaluate.main()
    assert {path for path, content in written().items() if content != before[path]} == {"metrics/evaluate.json"}
    other = read("metrics/evaluate.json")
    for name in ("models", "transformer_minus_baseline"):
        assert other.pop(name) != report.pop(name)
    assert other == report


# Slices


def test_the_slices_of_a_kind_add_up_to_the_test_split(here: Path) -> None:
    slices = slices_by_name()
    rows: dict[str, int] = {}
    for name, found in slices.items():
        kind = name.split(":")[0]
        rows[kind] = rows.get(kind, 0) + found["rows"]
    assert rows == dict.fromkeys(["emoji", "hashtag", "negation", "words", "confidence"], len(rows_of_test()))
    assert slices["confidence: unknown"]["rows"] == rows_of_test()["confidence"].isna().sum()
    assert slices["negation: yes"]["rows"] == rows_of_test()["raw"].str.contains("not good").sum()
    assert slices["emoji: yes"]["rows"] == rows_of_test()["raw"].str.contains("😀").sum()


def test_a_slice_is_scored_by_itself(here: Path, piped: Piped) -> None:
    truth, probabilities = piped
    mask = rows_of_test()["raw"].str.contains("#topic").to_numpy()
    found = slices_by_name()["hashtag: yes"]
    assert found["accuracy"] == pytest.approx((probabilities.argmax(1) == truth)[mask].mean(), abs=1e-4)
    assert found["macro_f1"] == pytest.approx(
        f1_score(truth[mask], probabilities[mask].argmax(1), labels=[0, 1, 2], average="macro", zero_division=0),
        abs=1e-4,
    )


def test_rows_fall_into_the_slices_of_their_raw_text_and_confidence() -> None:
    rows = pd.DataFrame(
        {
            "raw": ["Great 😀", "not #good " + "word " * 6, "word " * 23, "word " * 24, "don't"],
            "confidence": [0.5, 0.49, 1.0, None, 0.7],
        }
    )
    found = {name: np.flatnonzero(mask).tolist() for name, mask in evaluate.slices(rows).items()}
    assert found == {
        "emoji: yes": [0],
        "emoji: no": [1, 2, 3, 4],
        "hashtag: yes": [1],
        "hashtag: no": [0, 2, 3, 4],
        "negation: yes": [1, 4],
        "negation: no": [0, 2, 3],
        "words: 0 to 7": [0, 4],
        "words: 8 to 15": [1],
        "words: 16 to 23": [2],
        "words: 24 or more": [3],
        "confidence: 0 to 0.5": [1],
        "confidence: 0.5 to 0.7": [0],
        "confidence: 0.7 to 0.9": [4],
        "confidence: 0.9 to 1": [2],
        "confidence: unknown": [3],
    }


def test_a_slice_without_rows_is_left_out() -> None:
    named = {"some": np.array([True, False]), "none": np.array([False, False])}
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    found = evaluate.slice_scores(named, np.array([0, 1]), probabilities, probabilities[::-1])
    assert found == [{"slice": "some", "rows": 1, "accuracy": 1.0, "macro_f1": 0.5, "baseline_macro_f1": 0.0}]


# Mistakes


def test_the_mistakes_are_mistakes_with_the_most_confident_first(here: Path, piped: Piped) -> None:
    truth, probabilities = piped
    rows = rows_of_test()
    wrong = probabilities.argmax(1) != truth
    found = pd.read_csv("data/mistakes.csv")
    assert 0 < len(found) == wrong.sum()
    assert set(found["id"]) == set(rows["id"][wrong])
    assert found["probability"].is_monotonic_decreasing
    assert (found["label"] != found["predicted"]).all()
    by_id = rows.assign(best=probabilities.max(1)).set_index("id").loc[found["id"]]
    assert found["text"].tolist() == by_id["raw"].tolist()
    assert found["label"].tolist() == by_id["label"].tolist()
    np.testing.assert_allclose(found["probability"], by_id["best"], atol=1.5e-4)
    np.testing.assert_allclose(found["annotator_confidence"], by_id["confidence"])


def test_only_so_many_mistakes_are_kept_as_the_param_says(copy: Path) -> None:
    first = pd.read_csv("data/mistakes.csv").head(2)
    set_param(copy, "evaluate.mistakes", 2)
    evaluate.main()
    pd.testing.assert_frame_equal(pd.read_csv("data/mistakes.csv"), first)


def test_a_lone_carriage_return_in_a_mistake_ends_no_row(copy: Path) -> None:
    test = copy / "data/prepared/test.parquet"
    rows = pd.read_parquet(test)
    rows["raw"] = "first\rsecond"
    rows.to_parquet(test)
    evaluate.main()
    found = pd.read_csv("data/mistakes.csv")
    assert len(found) > 1
    assert set(found["text"]) == {"first\rsecond"}


def test_without_mistakes_the_table_is_empty() -> None:
    rows = pd.DataFrame({"id": ["x"], "label": ["good"], "confidence": [1.0], "raw": ["fine"]})
    found = evaluate.mistakes(rows, np.array([1]), np.array([[0.1, 0.9]]), ["bad", "good"], 5)
    assert found.empty
    assert list(found.columns) == ["id", "label", "predicted", "probability", "annotator_confidence", "text"]


# Plots and behaviour


def test_the_plots_have_the_points_that_dvc_yaml_draws(here: Path) -> None:
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["evaluate"]["plots"]
    assert {Path(path).name for plot in plots for path in plot} == {p.name for p in Path("plots/evaluate").iterdir()}
    for plot in plots:
        [(path, drawn)] = plot.items()
        for point in read(path):
            assert {drawn["x"], drawn["y"]} <= set(point)


def test_the_confusion_matrix_is_that_of_the_pipeline(here: Path, piped: Piped) -> None:
    truth, probabilities = piped
    expected = confusion_matrix(truth, probabilities.argmax(1))
    points = read("plots/evaluate/confusion.json")
    found = {(point["actual"], point["predicted"]): point["rows"] for point in points}
    assert found == {(a, p): expected[i, j] for i, a in enumerate(LABELS) for j, p in enumerate(LABELS)}
    for label in LABELS:
        assert sum(p["percent"] for p in points if p["actual"] == label) == pytest.approx(100, abs=0.001)


def test_a_precision_recall_curve_has_the_best_precision_at_each_recall_or_more() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    score = np.clip(0.3 * truth + 0.7 * rng.random(200), 0, 1)
    probabilities = np.stack([1 - score, score], axis=1)
    found = evaluate.curves(truth, probabilities, ["bad", "good"])
    precision, recall, _ = precision_recall_curve(truth == 1, score)
    good = [point for point in found if point["group"] == "good"]
    assert [point["recall"] for point in good] == pytest.approx(np.linspace(0, 1, 101).tolist())
    expected = [precision[:-1][recall[:-1] >= point["recall"]].max() for point in good]
    assert [point["precision"] for point in good] == pytest.approx(expected)


def test_the_reliability_of_both_models_covers_all_rows(here: Path) -> None:
    points = read("plots/evaluate/reliability.json")
    for name in ("transformer", "baseline"):
        assert sum(point["rows"] for point in points if point["group"] == name) == len(rows_of_test())
    assert [(p["confidence"], p["accuracy"]) for p in points if p["group"] == "perfect"] == [(0.0, 0.0), (1.0, 1.0)]


def test_nothing_that_goes_into_git_holds_a_tweet(here: Path) -> None:
    published = "".join(path.read_text() for root in ("metrics", "plots") for path in Path(root).rglob("*.json"))
    assert len(published) > 1000
    assert not any(word in published for word in ("airport", "terrible", "@someone", "#topic"))


def test_behaviour_is_reported_as_failure_rates(here: Path) -> None:
    report = read("metrics/behaviour.json")
    assert behaviour_kinds() == {
        "invariance": {"name", "mention", "url"},
        "direction": {"negation of praise", "strong positive word", "strong negative word"},
        "minimum functionality": {"plain positive", "plain negative", "negated praise", "plain neutral"},
    }
    for test in report["tests"]:
        assert 0 <= test["failures"] <= test["cases"]
        assert test["failure_rate"] == pytest.approx(test["failures"] / test["cases"], abs=1e-5)
        if test["kind"] == "invariance":
            assert test["cases"] == len(rows_of_test())
    failures, cases = (sum(test[name] for test in report["tests"]) for name in ("failures", "cases"))
    assert report["behaviour_failure_rate"] == pytest.approx(failures / cases, abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "kinds"),
    [
        (["anger", "fear", "joy", "sorrow"], {"invariance": ["name", "mention", "url"]}),
        (
            ["negative", "positive"],
            {
                "invariance": ["name", "mention", "url"],
                "direction": ["negation of praise", "strong positive word", "strong negative word"],
                "minimum functionality": ["plain positive", "plain negative", "negated praise"],
            },
        ),
    ],
)
def test_other_label_sets_are_scored_and_only_those_with_a_polarity_by_direction(
    tmp_path: Path,
    tiny_encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    labels: list[str],
    kinds: dict[str, list[str]],
) -> None:
    folder = trained_workspace(tmp_path, tiny_encoder, made_up_tweets(120, labels), epochs=1)
    monkeypatch.chdir(folder)
    evaluate.main()
    report = read("metrics/evaluate.json")
    rows = rows_of_test()
    predicted = np.array(labels)[by_pipeline(rows["text"].tolist(), labels).argmax(1)]
    assert report["accuracy"] == pytest.approx((predicted == rows["label"]).mean(), abs=1e-4)
    assert [scores["label"] for scores in of_model("transformer")["labels"]] == sorted(labels)
    assert len(read("plots/evaluate/confusion.json")) == len(labels) ** 2
    assert behaviour_kinds() == {kind: set(names) for kind, names in kinds.items()}


# The folder is what was scored


def test_a_tokenizer_that_was_tampered_with_is_caught(copy: Path) -> None:
    path = Path("models/transformer/tokenizer.json")
    content = path.read_text()
    assert content.count('"airport":') == content.count('"battery":') == 1
    path.write_text(
        content.replace('"airport":', '"?":').replace('"battery":', '"airport":').replace('"?":', '"battery":')
    )
    before = Path("metrics/evaluate.json").read_bytes()
    with pytest.raises(UserError, match=r"models/transformer: its tokenizer gives other tokens than data/features for"):
        evaluate.main()
    assert Path("metrics/evaluate.json").read_bytes() == before


def test_a_folder_that_cuts_tweets_shorter_is_caught(copy: Path) -> None:
    path = Path("models/transformer/tokenizer_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 8}))
    with pytest.raises(UserError, match="its tokenizer gives other tokens than data/features"):
        evaluate.main()


@pytest.mark.parametrize("shift", [0.01, float("nan")])
def test_a_model_that_was_tampered_with_is_caught(copy: Path, shift: float) -> None:
    folder, texts = Path("models/transformer"), rows_of_test()["text"].tolist()
    tokens = token_arrays.load(Path("data/features/test"))
    classifier = transformer.load(folder, precision="fp32")
    with threads(1):
        scored = transformer.probabilities(classifier.model, tokens, classifier.tokenizer.pad_token_id, batch_size=64)
        evaluate.check_pipeline(folder, texts, tokens, scored, LABELS)
        weights = load_file(folder / "model.safetensors")
        weights["classifier.bias"] = weights["classifier.bias"] + torch.tensor([shift, 0.0, 0.0])
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"transformers\.pipeline gives other probabilities than the model"):
            evaluate.check_pipeline(folder, texts, tokens, scored, LABELS)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take_is_refused(copy: Path, seed: int) -> None:
    set_param(copy, "evaluate.seed", seed)
    with pytest.raises(UserError, match=r"^params\.yaml: evaluate\.seed = "):
        evaluate.main()
