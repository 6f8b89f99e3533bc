"""Markdown tables of noise/noise.json, the report of `python -m tools.noise`."""

from typing import Any

from tweets.markdown import table, with_interval

MODELS = {"baseline": "TF-IDF baseline", "transformer": "transformer"}


def markdown(report: dict[str, Any]) -> str:
    """Return the report as tables, with a line each on what they rest on and what was left out."""
    tables = [score_table(report), *([band_table(report)] if report["bands"] else []), judged_table(report)]
    return "\n\n".join([*tables, *explain(report)])


def score_table(report: dict[str, Any]) -> str:
    """Return a table of the scores, of a second annotation's, and of the ceilings with the share of the gap closed."""
    rows: list[tuple[str, ...]] = [(title, *_scores(report["scores"][name]), "") for name, title in MODELS.items()]
    second = report["second_annotation"]
    if second:
        both = (with_interval(second[name], second["intervals"][name]) for name in ("accuracy", "macro_f1"))
        rows.append((f"a second annotation of the same words ({second['texts']:,} texts)", *both, ""))
    for ceiling in report["ceilings"]:
        shares = [_percent(closed(report["scores"], name, ceiling[name])) for name in ("accuracy", "macro_f1")]
        rows.append((f"ceiling, if {ceiling['votes']} votes made each label", *_scores(ceiling), ", ".join(shares)))
    if second:
        low, high = second["ceiling"]
        shares = [_percent(closed(report["scores"], "accuracy", end)) for end in (high, low)]
        rows.append(
            ("ceiling, by the second annotations", f"{low:.3f} to {high:.3f}", "", f"{shares[0]} to {shares[1]}, –")
        )
    some = "" if report["rows"] == report["of_rows"] else f" of {report['of_rows']:,}, those with a confidence"
    return table((f"{report['rows']:,} test tweets{some}", "accuracy", "macro-F1", "gap closed (of both)"), rows)


def closed(scores: dict[str, Any], name: str, best: float) -> float | None:
    """Return the share of the gap between the baseline's score and the best that the transformer closes."""
    base = scores["baseline"][name]
    return (scores["transformer"][name] - base) / (best - base) if best > base else None


def band_table(report: dict[str, Any]) -> str:
    """Return a Markdown table of accuracies and ceilings by annotator confidence."""
    votes = [f"ceiling, {ceiling['votes']} votes" for ceiling in report["ceilings"]]
    head = ("confidence", "test tweets", *MODELS, "second annotation", *votes, "flagged")
    rows = [
        (
            band["confidence"],
            f"{band['rows']:,}",
            *(f"{band[name]:.3f}" for name in MODELS),
            "–" if band["second_annotation"] is None else f"{band['second_annotation']:.3f} ({band['texts']:,} texts)",
            *(f"{ceiling['accuracy']:.3f}" for ceiling in band["ceilings"]),
            _percent(band["flagged"] / band["rows"]),
        )
        for band in reversed(report["bands"])
    ]
    return table(head, rows)


def judged_table(report: dict[str, Any]) -> str:
    """Return a Markdown table of what confident learning says of the labels."""
    labels = [estimate["label"] for estimate in report["judged"][0]["labels"]]
    head = (
        "judged by",
        "tweets",
        "estimated wrong",
        *(f"of {label}" for label in labels),
        "flagged",
        "AUC",
        "AUC of all mistakes",
    )
    rows = [
        (
            part["by"],
            f"{part['rows']:,}",
            _percent(part["estimated_wrong"]),
            *(_percent(estimate["estimated_wrong"]) for estimate in part["labels"]),
            f"{part['flagged']:,}",
            _number(part["flagged_have_lower_confidence"]),
            _number(part["predicted_otherwise_have_lower_confidence"]),
        )
        for part in report["judged"]
    ]
    return table(head, rows)


def _scores(scores: dict[str, Any]) -> tuple[str, str]:
    return f"{scores['accuracy']:.3f}", f"{scores['macro_f1']:.3f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def explain(report: dict[str, Any]) -> list[str]:
    """Return what the tables rest on, and what was left out, a line each."""
    lines = [
        f"With {ceiling['votes']} votes the vote model puts {_percent(ceiling['misfit'])} of the tweets at other shares"
        f" of votes than they have, and expects two panels to agree on {ceiling['repeatability']:.3f}."
        for ceiling in report["ceilings"]
    ]
    if report["bands"]:
        lines.append(
            "Where a model beats a ceiling in a band of confidence, the tweets there had another number of votes."
        )
    if second := report["second_annotation"]:
        lines.append(
            f"Second annotations: {second['pairs']:,} pairs of copies; 95 % bootstrap intervals over texts. Of the"
            f" {second['pairs_below_1']:,} pairs with both confidences below 1,"
            f" {second['of_them_with_one_confidence']:,} have the same one: many would mean copied annotations."
        )
    lines.append(
        "AUC: how often a flagged tweet has a lower annotator confidence than one that is not flagged; beside it the"
        " same of all tweets that the model labels otherwise."
    )
    if opinions := report["second_opinions"]:
        lines.append(
            f"Of the {opinions['flagged']:,} flagged training tweets with copies, a copy repeats the label of"
            f" {_percent(opinions['flagged_repeated'])} and has the suggested one for"
            f" {_percent(opinions['flagged_as_suggested'])}; of the {opinions['others']:,} others, it repeats the label"
            f" of {_percent(opinions['others_repeated'])}."
        )
    if left := report["not_flagged"]:
        lines.append(
            f"On the {left['rows']:,} test tweets that it does not flag, the transformer has accuracy"
            f" {left['accuracy']:.3f} and macro-F1 {left['macro_f1']:.3f}: too good to be true, since it flags tweets"
            " that it has wrong."
        )
    return [*lines, *(f"Left out: {reason}." for reason in report["left_out"])]
